package leader

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// recordKey is the annotation of a Lease object that the nodes go by. The spec
// repeats what ordinary tools show.
const recordKey = "pintle.dev/lease"

// groupLabel marks the Leases that a Roll follows.
const groupLabel = "pintle.dev/group"

// group is the label's value for Leases whose names begin with a prefix.
func group(prefix string) string { return strings.Trim(prefix, "-._") }

// managedBy marks the objects that Pintle made.
const managedBy = "app.kubernetes.io/managed-by"

// Bounds of T: what a record says beyond them was not written by a node.
const (
	MinLease = 2 * time.Second
	MaxLease = 60 * time.Second
)

// maxEpoch is more than there will ever be.
const maxEpoch = 1 << 62

// A record is what the nodes tell each other through a Lease object.
type record struct {
	Holder   string   `json:"holder"`
	Process  string   `json:"process"` // tells two processes of one name apart
	Epoch    uint64   `json:"epoch"`
	Seq      uint64   `json:"seq"` // counts the writes of the process
	Millis   int64    `json:"durationMillis"`
	Version  string   `json:"version,omitempty"`
	MACs     []string `json:"macs,omitempty"`
	Note     string   `json:"note,omitempty"`     // what else the holder tells the others
	Heir     string   `json:"heir,omitempty"`     // the lock that the process held: see KubeConfig
	Fenced   string   `json:"fenced,omitempty"`   // nobody holds: this other node ended the last tenure
	Forming  bool     `json:"forming,omitempty"`  // nobody holds: the process made the object, and waits or probes
	High     uint64   `json:"high,omitempty"`     // the highest epoch that it knows of
	Released string   `json:"released,omitempty"` // HOLDER/EPOCH once the holder has given the seat up
	Next     *answer  `json:"next,omitempty"`     // to whom
	Offer    string   `json:"offer,omitempty"`    // who would take the seat? A new question has a new value
	Answers  []answer `json:"answers,omitempty"`
	Wish     *wish    `json:"wish,omitempty"`
}

// An answer is a candidate's word that it would take the seat at once.
type answer struct {
	Node    string   `json:"node"`
	Process string   `json:"process"`
	Offer   string   `json:"offer"`
	Nonce   string   `json:"nonce"` // a release that repeats it is taken once
	Rank    int      `json:"rank"`
	MACs    []string `json:"macs,omitempty"`
}

// A wish asks the holder to hand over.
type wish struct {
	To string `json:"to,omitempty"`
	ID string `json:"id"`
}

// t is the holder's T, within bounds; 0 when the record has none.
func (r *record) t() time.Duration {
	if r.Millis <= 0 {
		return 0
	}
	return min(time.Duration(r.Millis)*time.Millisecond, MaxLease)
}

func (r *record) release() string { return r.Holder + "/" + strconv.FormatUint(r.Epoch, 10) }

// held reports whether a process holds, as the record says.
func (r *record) held() bool { return r.Holder != "" && r.Epoch > 0 && !r.Forming && !r.released() }

// released reports whether the holder itself has given the seat up.
func (r *record) released() bool { return r.Released != "" && r.Released == r.release() }

func (r *record) answered(process, offer string) bool {
	return slices.ContainsFunc(r.Answers, func(a answer) bool { return a.Process == process && a.Offer == offer })
}

// A leaseKey is where a Lease object is.
type leaseKey struct {
	namespace, name string
	group           string // "" for one that no Roll follows
}

// A sighting is the state of the Lease object as it came from an API server.
type sighting struct {
	object  *coordinationv1.Lease // nil when there is none
	record  record                // the zero value when there is none to be understood
	version uint64                // resourceVersion as a number; 0 when it is not one
	print   string                // what tells two states apart, also if a resourceVersion came twice

	at   Instant       // when this state was first seen
	wait time.Duration // how long it must stay before another may take the seat
}

// sight reads an object; nil means that there is none.
func sight(o *coordinationv1.Lease) sighting {
	if o == nil {
		return sighting{print: "absent"}
	}
	s := sighting{object: o}
	s.version, _ = strconv.ParseUint(o.ResourceVersion, 10, 64)
	err := json.Unmarshal([]byte(o.Annotations[recordKey]), &s.record)
	if err != nil || max(s.record.Epoch, s.record.High) > maxEpoch {
		s.record = record{} // foreign: all it says is that it was written
	}
	holder, renewed := "", ""
	if o.Spec.HolderIdentity != nil {
		holder = *o.Spec.HolderIdentity
	}
	if o.Spec.RenewTime != nil {
		renewed = o.Spec.RenewTime.UTC().Format(time.RFC3339Nano)
	}
	s.print = fmt.Sprintf("%s %s %q %s %s", o.UID, o.ResourceVersion, holder, renewed, o.Annotations[recordKey])
	return s
}

func (s *sighting) uid() types.UID {
	if s.object == nil {
		return ""
	}
	return s.object.UID
}

// before reports whether s is an older state of the same object than o.
func (s *sighting) before(o *sighting) bool {
	return s.uid() == o.uid() && s.version != 0 && s.version < o.version
}

// write returns the object to be put in the place of the one that was seen: it
// names its resourceVersion and UID, so that the API server refuses it if
// anything was written in between. If there was none it is made: a Lease may be
// created by an update.
//
// The spec follows the record of a holder; who only answers or asks leaves it
// as it is.
func (s *sighting) write(k leaseKey, r record, holder bool, now time.Time) *coordinationv1.Lease {
	o := &coordinationv1.Lease{}
	if s.object != nil {
		o = s.object.DeepCopy()
		o.ManagedFields = nil
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	o.Namespace, o.Name = k.namespace, k.name
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	text, err := json.Marshal(r)
	if err != nil {
		panic("marshal a record: " + err.Error()) // strings and numbers only
	}
	o.Annotations[recordKey], o.Labels[managedBy] = string(text), "pintle"
	if k.group != "" {
		o.Labels[groupLabel] = k.group
	}
	if holder {
		s.spec(&o.Spec, r, now)
	}
	return o
}

// spec says the same to ordinary tools, in whole seconds and their clock's time.
func (s *sighting) spec(spec *coordinationv1.LeaseSpec, r record, now time.Time) {
	micro := metav1.NewMicroTime(now)
	holder, seconds := r.Holder, int32((r.Millis+999)/1000)
	if r.released() {
		holder = ""
	}
	if was := s.record; was.Process != r.Process || was.Epoch != r.Epoch {
		var n int32
		if spec.LeaseTransitions != nil {
			n = *spec.LeaseTransitions
		}
		if was.Holder != r.Holder {
			n++
		}
		spec.AcquireTime, spec.LeaseTransitions = &micro, &n
	}
	spec.HolderIdentity, spec.LeaseDurationSeconds, spec.RenewTime = &holder, &seconds, &micro
}
