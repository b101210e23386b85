package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// A node is one value of the file. The tree is plain: no aliases, no tags, one document, each key once.
type node struct {
	path   string
	kind   kind
	text   string // of a scalar
	fields []field
	items  []*node
}

type field struct {
	key   string
	value *node
}

type kind string

const (
	nothing kind = "nothing"
	text    kind = "a text"
	number  kind = "a number"
	boolean kind = "true or false"
	list    kind = "a list"
	mapping kind = "a mapping"
	foreign kind = "" // refused already
)

// has reports whether a mapping has a key, also one without a value.
func (n *node) has(key string) bool {
	return slices.ContainsFunc(n.fields, func(f field) bool { return f.key == key })
}

type position struct {
	line, column int
	null         bool // the value there counts as not given
}

// maxDepth bounds nesting; the parser's time grows with its square.
const maxDepth = 32

// A reader collects the problems of one file.
type reader struct {
	file     string
	at       map[string]position
	problems []Problem
}

// add reports a problem at a path, or where the nearest thing around it stands.
func (r *reader) add(path, value, message, hint string) {
	p := r.at[path]
	for up := path; p.line == 0 && up != ""; p = r.at[up] {
		up = parent(up)
	}
	r.problems = append(r.problems, Problem{File: r.file, Line: p.line, Column: p.column,
		Path: path, Value: value, Message: message, Hint: hint})
}

func (r *reader) warn(path, value, message, hint string) {
	r.add(path, value, message, hint)
	r.problems[len(r.problems)-1].Warning = true
}

// refuse reports why the value of n cannot be used.
func (r *reader) refuse(n *node, err error) {
	var why *refusal
	if errors.As(err, &why) {
		r.add(n.path, n.text, why.message, why.hint)
		return
	}
	r.add(n.path, n.text, err.Error(), "")
}

// broken reports what makes the file no YAML that we read.
func (r *reader) broken(p position, message, hint string) {
	r.problems = append(r.problems, Problem{File: r.file, Line: p.line, Column: p.column, Message: message, Hint: hint})
}

func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// tree makes the tree of the file's one document. It is nil if there is none to go on with; the problem is reported.
func (r *reader) tree(data []byte) *node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !r.plain(data) {
		return nil
	}
	body := r.document(data)
	if body == nil {
		return nil
	}
	root := r.build(body, "")
	if root.kind != mapping && root.kind != foreign {
		r.broken(position{line: 1, column: 1}, fmt.Sprintf("want keys and values, got %s", root.kind), "begin with apiVersion: "+APIVersion)
		return nil
	}
	return root
}

// plain checks the text itself. Tabs are refused wherever YAML would take them for something else than they look.
func (r *reader) plain(data []byte) bool {
	if len(data) > maxFile {
		r.broken(position{}, fmt.Sprintf("larger than %d bytes", maxFile), "is this the right file?")
		return false
	}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if !utf8.ValidString(line) {
			r.broken(position{line: i + 1, column: 1}, "not UTF-8 text", "save it as UTF-8")
			return false
		}
		if at := strings.IndexFunc(line, control); at >= 0 {
			r.broken(position{line: i + 1, column: at + 1}, fmt.Sprintf("has the control character %q", line[at]), "is this the right file?")
			return false
		}
		if at := strings.IndexByte(uncomment(line), '\t'); at >= 0 {
			r.broken(position{line: i + 1, column: at + 1}, "has a tab", "use spaces")
		}
	}
	return true
}

func control(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }

// uncomment cuts a comment and the white space before it off a line.
func uncomment(line string) string {
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
			break
		}
	}
	return strings.TrimRight(line, " \t")
}

// document parses the text and returns the body of its only document.
func (r *reader) document(data []byte) ast.Node {
	tokens := lexer.Tokenize(string(data))
	if at, deep := deepest(tokens); deep {
		r.broken(at, "nested too deep", "is this the right file?")
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // duplicates are ours: it stops at the first
	if err != nil {
		if len(r.problems) == 0 { // else tabs are the cause
			r.syntax(err)
		}
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case body != nil || doc.Body.Type() == ast.DirectiveType:
			r.broken(place(doc.Body), "has more than one document", "keep one, and leave out lines of --- and %")
			return nil
		default:
			body = doc.Body
		}
	}
	if body == nil && len(r.problems) == 0 {
		r.broken(position{line: 1, column: 1}, "the file is empty", "begin with apiVersion: "+APIVersion)
	}
	return body
}

func (r *reader) syntax(err error) {
	p, message := position{line: 1, column: 1}, err.Error()
	var y yaml.Error
	if errors.As(err, &y) {
		message = y.GetMessage()
		if tk := y.GetToken(); tk != nil {
			p = position{line: tk.Position.Line, column: tk.Position.Column}
		}
	}
	r.broken(p, "not YAML: "+message, "")
}

// deepest looks at the nesting before the parser does.
func deepest(tokens token.Tokens) (position, bool) {
	flow, dashes := 0, 0
	for _, tk := range tokens {
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType:
			if tk.Prev == nil || tk.Prev.Position.Line != tk.Position.Line {
				dashes = 0
			}
			dashes++
		}
		if flow > maxDepth || dashes > maxDepth {
			return position{line: tk.Position.Line, column: tk.Position.Column}, true
		}
	}
	return position{}, false
}

// place is where a person would say that n begins.
func place(n ast.Node) position {
	switch v := n.(type) {
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return place(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return place(v.Key)
	}
	tk := n.GetToken()
	if tk == nil || tk.Position == nil {
		return position{}
	}
	return position{line: tk.Position.Line, column: tk.Position.Column}
}

// build copies what we read of n, and reports the rest.
func (r *reader) build(n ast.Node, path string) *node {
	out := &node{path: path}
	if _, known := r.at[path]; !known { // else it is where its key is
		r.at[path] = place(n)
	}
	if strings.Count(path, ".")+strings.Count(path, "[") > maxDepth {
		r.add(path, "", "nested too deep", "")
		return out
	}
	switch v := n.(type) {
	case *ast.MappingNode:
		r.mapping(out, v.Values)
	case *ast.MappingValueNode:
		r.mapping(out, []*ast.MappingValueNode{v})
	case *ast.SequenceNode:
		out.kind = list
		for i, item := range v.Values {
			out.items = append(out.items, r.build(item, fmt.Sprintf("%s[%d]", path, i)))
		}
	default:
		r.scalar(out, n)
	}
	return out
}

func (r *reader) scalar(out *node, n ast.Node) {
	if at := place(n); at.line > 0 {
		at.null = n.Type() == ast.NullType
		r.at[out.path] = at
	}
	switch v := n.(type) {
	case *ast.StringNode:
		out.kind, out.text = text, v.Value
	case *ast.LiteralNode:
		out.kind, out.text = text, v.Value.Value
	case *ast.BoolNode:
		out.kind, out.text = boolean, v.GetToken().Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.kind, out.text = number, n.GetToken().Value
	case *ast.NullNode:
		out.kind = nothing
	case *ast.AnchorNode, *ast.AliasNode:
		r.add(out.path, "", "anchors and aliases (& and *) are not read", "write the value out")
	case *ast.TagNode:
		r.add(out.path, n.GetToken().Value, "tags are not read", "leave it out")
	default:
		r.add(out.path, "", "not a value that is read here", "")
	}
}

func (r *reader) mapping(out *node, values []*ast.MappingValueNode) {
	out.kind = mapping
	first := map[string]position{}
	for _, v := range values {
		key, ok := r.key(v.Key, out.path)
		if !ok {
			continue
		}
		path := key
		if out.path != "" {
			path = out.path + "." + key
		}
		at := place(v.Key)
		if f, twice := first[key]; twice {
			r.problems = append(r.problems, Problem{File: r.file, Line: at.line, Column: at.column, Path: path,
				Message: fmt.Sprintf("given twice, first in line %d", f.line), Hint: "keep one"})
			continue
		}
		first[key], r.at[path] = at, at
		out.fields = append(out.fields, field{key, r.build(v.Value, path)})
	}
}

// key reads the key of a mapping.
func (r *reader) key(n ast.MapKeyNode, path string) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode, *ast.NullNode:
		return n.GetToken().Value, true // no key of ours: it will be refused as unknown
	}
	at := place(n)
	message, hint := "not a key that is read here", "write a plain word"
	if n.Type() == ast.MergeKeyType {
		message, hint = "merge keys (<<) are not read", "write the keys out"
	}
	r.problems = append(r.problems, Problem{File: r.file, Line: at.line, Column: at.column, Path: path, Message: message, Hint: hint})
	return "", false
}
