package config

import (
	"errors"
	"fmt"
)

// Community is the number of a community as people write it: AS:value, or one of the well-known names (RFC 1997).
func Community(text string) (uint32, error) { return spoken(text, parseCommunity) }

// LargeCommunity is a large community as people write it: three numbers with colons between them (RFC 8092).
func LargeCommunity(text string) ([3]uint32, error) { return spoken(text, parseLarge) }

// spoken makes one sentence of what a parser of the file says of a value.
func spoken[T any](text string, parse func(string) (T, error)) (T, error) {
	v, err := parse(text)
	var why *refusal
	if errors.As(err, &why) {
		err = fmt.Errorf("%q is %s: write it %s", text, why.message, why.hint)
	}
	return v, err
}
