package service

import (
	"iter"
	"slices"
)

// A queue is what is to be looked at, each once, in the order in which that was found.
type queue[K comparable] struct {
	compare func(a, b K) int
	in      map[K]struct{}
	front   []K // goes before order
	order   []K // both may name what is not in any more, or again
}

func newQueue[K comparable](compare func(a, b K) int) *queue[K] {
	return &queue[K]{compare: compare, in: map[K]struct{}{}}
}

func (q *queue[K]) len() int { return len(q.in) }

func (q *queue[K]) has(k K) bool {
	_, ok := q.in[k]
	return ok
}

// add puts it at the end, unless it is in.
func (q *queue[K]) add(k K) {
	if !q.has(k) {
		q.in[k] = struct{}{}
		q.order = append(q.order, k)
	}
}

// addFirst puts it before all that add has put in.
func (q *queue[K]) addFirst(k K) {
	q.in[k] = struct{}{}
	q.front = append(q.front, k)
}

// addAll adds many, sorted.
func (q *queue[K]) addAll(ks iter.Seq[K]) {
	var more []K // those that are in are not sorted again each time
	for k := range ks {
		if !q.has(k) {
			more = append(more, k)
		}
	}
	slices.SortFunc(more, q.compare)
	for _, k := range more {
		q.add(k)
	}
}

// each has what is in looked at until that says stop. What is done goes; what is not keeps its place. What comes in meanwhile is looked
// at the next time.
func (q *queue[K]) each(look func(K) (done, stop bool)) {
	front, order := q.front, q.order
	q.front, q.order = nil, nil
	front, stopped := q.pass(front, look)
	if !stopped {
		order, _ = q.pass(order, look)
	}
	q.front, q.order = append(front, q.front...), append(order, q.order...)
}

// pass is each for one list. It returns what is left of that.
func (q *queue[K]) pass(list []K, look func(K) (done, stop bool)) (left []K, stopped bool) {
	kept := 0
	for i, k := range list {
		if !q.has(k) {
			continue
		}
		done, stop := look(k)
		switch {
		case stop:
			copy(list[i-kept:], list[:kept])
			return list[i-kept:], true
		case done:
			delete(q.in, k)
		default:
			list[kept] = k
			kept++
		}
	}
	return list[:kept], false
}
