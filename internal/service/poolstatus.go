package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
)

// poolsAgain is when the status of a pool is written again if it is another one than was written: an older write came later.
const poolsAgain = 30 * time.Second

// A toldPool is the status of a pool as it was written, and when.
type toldPool struct {
	text string
	at   leader.Instant
}

// tellPools writes the status of pools that is another one than before.
func (c *Controller) tellPools(ctx context.Context) {
	f := &c.facts
	if f.Now < c.poolsAt.Add(poolsEach) && c.poolsAt != 0 {
		return
	}
	c.poolsAt = f.Now
	var all []ipam.Pool
	for _, p := range f.Pools {
		all = append(all, p.Pool)
	}
	wrong := ipam.CheckPools(all)
	for name, p := range f.Pools {
		st := c.coord.poolStatus(p, wrong[name])
		text := jsonOf(st)
		if t := c.told[name]; text == t.text && (text == jsonOf(p.Object.Status) || f.Now < t.at.Add(poolsAgain)) {
			continue
		}
		c.told[name] = toldPool{text, f.Now}
		c.group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, callLimit)
			defer cancel()
			err := c.client.poolStatus(ctx, name, st)
			c.post(func() {
				if err != nil {
					delete(c.told, name)
				}
				if ctx.Err() == nil && !apierrors.IsNotFound(err) { // the watch tells that it is gone
					c.wrote("pools", "write the status of pool "+name, err)
				}
			})
			return nil
		})
	}
}

// poolStatus is what has become of a pool.
func (c *coordinator) poolStatus(p *Pool, wrong []error) pintlev1.AddressPoolStatus {
	u := c.book.Usage(p.Name)
	st := pintlev1.AddressPoolStatus{Total: u.Total.String(), Used: int64(u.Used), Free: u.Free.String(), Conflicts: int64(u.Conflicts)}
	cond := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Valid", Message: "it gives addresses", ObservedGeneration: p.Object.Generation}
	if slices.Contains(p.Object.Spec.Announce, pintlev1.AnnounceBGP) && !c.Rules.Routers {
		wrong = append(wrong, errors.New("spec.announce: bgp has no effect: the configuration of the nodes names no routers (section bgp)"))
	}
	if problems := errors.Join(append(p.Errors, wrong...)...); problems != nil {
		cond.Reason, cond.Message = "Conflict", strings.ReplaceAll(problems.Error(), "\n", "; ")
		if len(p.Errors) > 0 {
			cond.Status, cond.Reason = metav1.ConditionFalse, "Invalid"
		}
	}
	cond.LastTransitionTime = metav1.NewTime(p.Object.CreationTimestamp.Time)
	for _, was := range p.Object.Status.Conditions {
		if was.Type != cond.Type {
			continue
		}
		cond.LastTransitionTime = was.LastTransitionTime
		if was.Status != cond.Status {
			cond.LastTransitionTime = metav1.NewTime(c.Wall)
		}
	}
	st.Conditions = []metav1.Condition{cond}
	return st
}
