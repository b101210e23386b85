// Package crds holds tests of the definitions of Pintle's objects (manifests/crds), on a real API server (test/cluster).
package crds
