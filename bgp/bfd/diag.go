package bfd

// Diag is why a session changed its state (RFC 5880 4.1).
type Diag uint8

// The diagnostics that this package gives.
const (
	DiagNone         Diag = 0
	DiagTimeExpired  Diag = 1
	DiagNeighborDown Diag = 3
	DiagPathDown     Diag = 5
	DiagAdminDown    Diag = 7
)

// String says it in words.
func (d Diag) String() string {
	words := [...]string{"none", "control detection time expired", "echo function failed", "neighbour signalled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down"}
	if int(d) < len(words) {
		return words[d]
	}
	return "reserved"
}
