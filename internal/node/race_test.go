//go:build race

package node_test

// raceDetector: Pintle is built as the tests are.
const raceDetector = true
