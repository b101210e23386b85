// Package e2e holds tests of what is installed, on real control planes (test/cluster).
package e2e
