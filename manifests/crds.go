package manifests

import (
	_ "embed"
	"slices"
)

var (
	//go:embed crds/addresspools.yaml
	poolsCRD []byte
	//go:embed crds/addresses.yaml
	addressesCRD []byte
)

// CRDs are the definitions of the objects that Pintle keeps in a cluster, for Kubernetes 1.29 and newer: AddressPool, which people
// write, and Address, which Pintle writes. Package pintlev1 has the same as Go types.
func CRDs() []byte { return slices.Concat(poolsCRD, []byte("---\n"), addressesCRD) }
