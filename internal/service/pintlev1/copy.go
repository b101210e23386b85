package pintlev1

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DeepCopyObject implements [runtime.Object].
func (p *AddressPool) DeepCopyObject() runtime.Object {
	out := *p
	out.ObjectMeta = *p.ObjectMeta.DeepCopy()
	s := &out.Spec
	s.Addresses, s.Namespaces = slices.Clone(s.Addresses), slices.Clone(s.Namespaces)
	s.Announce, s.Links = slices.Clone(s.Announce), slices.Clone(s.Links)
	s.AutoAssign, s.BGP = clone(s.AutoAssign), s.BGP.deepCopy()
	for _, l := range []**metav1.LabelSelector{&s.NamespaceSelector, &s.ServiceSelector, &s.NodeSelector} {
		*l = (*l).DeepCopy()
	}
	out.Status.Conditions = slices.Clone(out.Status.Conditions) // of values
	return &out
}

// DeepCopy returns a copy that shares nothing with a.
func (a *Address) DeepCopy() *Address {
	out := *a
	out.ObjectMeta = *a.ObjectMeta.DeepCopy()
	s := &out.Spec
	s.Services, s.Announce, s.Links = slices.Clone(s.Services), slices.Clone(s.Announce), slices.Clone(s.Links)
	s.BGP = s.BGP.deepCopy()
	out.Status.Since = clone(out.Status.Since)
	return &out
}

// DeepCopyObject implements [runtime.Object].
func (a *Address) DeepCopyObject() runtime.Object { return a.DeepCopy() }

// DeepCopyObject implements [runtime.Object].
func (l *AddressPoolList) DeepCopyObject() runtime.Object {
	out := *l
	out.ListMeta = *l.ListMeta.DeepCopy()
	out.Items = make([]AddressPool, len(l.Items))
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopyObject().(*AddressPool)
	}
	return &out
}

// DeepCopyObject implements [runtime.Object].
func (l *AddressList) DeepCopyObject() runtime.Object {
	out := *l
	out.ListMeta = *l.ListMeta.DeepCopy()
	out.Items = make([]Address, len(l.Items))
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopy()
	}
	return &out
}

func (b *RouteBGP) deepCopy() *RouteBGP {
	if b == nil {
		return nil
	}
	return &RouteBGP{Communities: slices.Clone(b.Communities), LargeCommunities: slices.Clone(b.LargeCommunities), LocalPref: clone(b.LocalPref)}
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
