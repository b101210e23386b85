package service

import (
	"encoding/json"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/leader"
)

// seatName is the Lease object that names the coordinator. It is not renewed: it counts for as long as the epoch of the node that
// it names does, like an address. So it costs no writes, and who coordinates is replaced after a fence only.
const seatName = "pintle-services"

// seatNote is its annotation.
const seatNote = "pintle.dev/coordinator"

// A SeatRecord is whom the seat names.
type SeatRecord struct {
	Node    string `json:"node,omitempty"` // "" for nobody
	Epoch   uint64 `json:"epoch,omitempty"`
	object  *coordinationv1.Lease
	version uint64
	known   bool           // it was looked for
	vacant  leader.Instant // since when nobody sits there; 0 while somebody does
}

// readSeat reads the object; nil is none.
func readSeat(o *coordinationv1.Lease) SeatRecord {
	s := SeatRecord{known: true}
	if o == nil {
		return s
	}
	if json.Unmarshal([]byte(o.Annotations[seatNote]), &s) != nil {
		s = SeatRecord{known: true} // foreign
	}
	s.object, s.version = o, version(o.ResourceVersion)
	return s
}

// write is the object that names another node, or nobody.
func (s *SeatRecord) write(namespace, node string, epoch uint64, now time.Time) *coordinationv1.Lease {
	o := &coordinationv1.Lease{}
	if s.object != nil {
		o = s.object.DeepCopy()
		o.ManagedFields = nil
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	o.Namespace, o.Name = namespace, seatName
	text, err := json.Marshal(SeatRecord{Node: node, Epoch: epoch})
	if err != nil {
		panic("marshal a seat: " + err.Error()) // strings and numbers only
	}
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Annotations[seatNote], o.Labels["app.kubernetes.io/managed-by"] = string(text), "pintle"
	micro := metav1.NewMicroTime(now)
	o.Spec.HolderIdentity, o.Spec.AcquireTime = &node, &micro
	return o
}

// coordinates reports whether this node is the coordinator: the seat names it in its present epoch, and its Lease is valid.
func (f *Facts) coordinates() bool {
	return f.Seat.Node == f.Node && f.Seat.Epoch == f.Epoch && f.Epoch != 0 && f.Lease.Valid()
}

// vacancy reports whether nobody coordinates.
func (f *Facts) vacancy() bool {
	return f.Seat.known && (f.Seat.Node == "" || f.void(f.Seat.Node, f.Seat.Epoch))
}

// seatStep is how much later each further node takes a vacant seat: two that tried at once would cost a write, no more.
const seatStep = 40 * time.Millisecond

// takesSeat reports whether this node is to take the seat now, and if not, when to ask again; 0: when there is news.
func (f *Facts) takesSeat() (bool, leader.Instant) {
	if !f.vacancy() || !f.Lease.Valid() || f.Leaving || !f.Synced {
		f.Seat.vacant = 0
		return false, 0
	}
	if f.Seat.vacant == 0 {
		f.Seat.vacant = f.Now
	}
	at := f.Seat.vacant.Add(f.turnOf())
	return f.Now >= at, at
}

// turnOf is how long this node leaves it to others to be the next coordinator.
func (f *Facts) turnOf() (d time.Duration) {
	for _, n := range f.alive() {
		if n == f.Node {
			break
		}
		if !f.Roll[n].Word.Leaving {
			d += seatStep
		}
	}
	return d
}
