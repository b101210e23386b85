package service

import (
	"cmp"
	"slices"
	"testing"
)

// What is in is looked at once, in its order; what is not done keeps its place, and what comes in meanwhile waits for the next time.
func TestQueue(t *testing.T) {
	q := newQueue(cmp.Compare[int])
	q.addAll(slices.Values([]int{3, 1, 2, 4, 5}))
	q.add(3)
	q.addFirst(9)
	q.addFirst(5) // also in the other list
	for i, step := range []struct {
		most int
		keep []int // not done
		want []int
	}{
		{2, nil, []int{9, 5}},
		{2, []int{1}, []int{1, 2}},
		{9, []int{1}, []int{1, 3, 4}},
		{9, nil, []int{1, 7}},
		{9, nil, nil},
	} {
		var got []int
		q.each(func(k int) (done, stop bool) {
			if len(got) == step.most {
				return false, true
			}
			got = append(got, k)
			if i == 2 && k == 1 {
				q.add(7)
			}
			return !slices.Contains(step.keep, k), false
		})
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	if q.len() != 0 || q.has(1) {
		t.Errorf("%d are left", q.len())
	}
}
