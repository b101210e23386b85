package config

import (
	_ "embed"
	"fmt"

	"github.com/goccy/go-yaml"
)

//go:embed reference.yaml
var reference []byte

// Reference is a configuration that says what every key is for and what it is when left out.
func Reference() []byte { return append([]byte(nil), reference...) }

// Effective writes the configuration as it is in force, with every default. Parse makes the same Config of it.
// What Resolve found out is not in it.
func (c *Config) Effective() ([]byte, error) {
	out, err := yaml.MarshalWithOptions(section(c.keys()).show(), yaml.Indent(2), yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return out, nil
}
