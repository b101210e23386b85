package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// program is a program as far as its header goes.
func program(machine elf.Machine, interpreter bool) []byte {
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Phoff: 64, Phentsize: 56, Phnum: 1, Ehsize: 64, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	p := elf.Prog64{Type: uint32(elf.PT_LOAD)}
	if interpreter {
		p.Type = uint32(elf.PT_INTERP)
	}
	var out bytes.Buffer
	binary.Write(&out, binary.LittleEndian, h)
	binary.Write(&out, binary.LittleEndian, p)
	return out.Bytes()
}

func image() Image {
	return Image{Name: "pintle", Version: "v1.2.3-dirty", Arch: "arm64", Program: program(elf.EM_AARCH64, false)}
}

// unpack reads a tar.
func unpack(t *testing.T, data []byte) (headers []*tar.Header, files map[string][]byte) {
	t.Helper()
	files = map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, files
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		headers, files[h.Name] = append(headers, h), body
	}
}

// read decodes a file of the archive.
func read(t *testing.T, files map[string][]byte, name string, into any) {
	t.Helper()
	data, ok := files[name]
	if !ok {
		t.Fatalf("no %s", name)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// follow returns the blob of a descriptor, whose size and digest must be right.
func follow(t *testing.T, files map[string][]byte, d descriptor) []byte {
	t.Helper()
	data, ok := files[path(d)]
	if !ok || len(data) != d.Size || d.Digest != fmt.Sprintf("sha256:%x", sha256.Sum256(data)) {
		t.Fatalf("%+v: %d bytes, there: %v", d, len(data), ok)
	}
	return data
}

func TestArchive(t *testing.T) {
	data, err := image().Archive()
	if err != nil {
		t.Fatal(err)
	}
	_, files := unpack(t, data)
	var layout struct{ ImageLayoutVersion string }
	read(t, files, "oci-layout", &layout)
	var index struct{ Manifests []descriptor }
	read(t, files, "index.json", &index)
	if layout.ImageLayoutVersion != "1.0.0" || len(index.Manifests) != 1 {
		t.Fatalf("%+v %+v", layout, index)
	}
	m := index.Manifests[0]
	if *m.Platform != (platform{"arm64", "linux"}) || m.Annotations["io.containerd.image.name"] != "docker.io/library/pintle:v1.2.3-dirty" {
		t.Errorf("%+v", m)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.Unmarshal(follow(t, files, m), &manifest); err != nil || len(manifest.Layers) != 1 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	layer := unzip(t, follow(t, files, manifest.Layers[0]))
	checkConfig(t, follow(t, files, manifest.Config), fmt.Sprintf("sha256:%x", sha256.Sum256(layer)))
	checkLayer(t, layer)

	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	read(t, files, "manifest.json", &docker)
	if len(docker) != 1 || docker[0].Config != path(manifest.Config) || docker[0].Layers[0] != path(manifest.Layers[0]) || docker[0].RepoTags[0] != "pintle:v1.2.3-dirty" {
		t.Errorf("manifest.json: %+v", docker)
	}
}

func unzip(t *testing.T, data []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func checkConfig(t *testing.T, data []byte, diffID string) {
	t.Helper()
	var c struct {
		Architecture, OS string
		Config           struct {
			User            string
			Entrypoint, Cmd []string
			Labels          map[string]string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	if c.Architecture != "arm64" || c.OS != "linux" || len(c.RootFS.DiffIDs) != 1 || c.RootFS.DiffIDs[0] != diffID {
		t.Errorf("%+v, want diff ID %s", c, diffID)
	}
	// The Dockerfile makes the same image.
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	in := strings.ReplaceAll(string(text), "$VERSION", "v1.2.3-dirty")
	for _, line := range []string{"USER " + c.Config.User, "ENTRYPOINT " + list(c.Config.Entrypoint), "CMD " + list(c.Config.Cmd)} {
		if !strings.Contains(in, "\n"+line+"\n") {
			t.Errorf("Dockerfile has no line %s", line)
		}
	}
	for k, v := range c.Config.Labels {
		if !regexp.MustCompile(`(?s)\nLABEL .*` + regexp.QuoteMeta(k+`="`+v+`"`)).MatchString(in) {
			t.Errorf("Dockerfile has no label %s=%q", k, v)
		}
	}
}

func list(words []string) string { return `["` + strings.Join(words, `", "`) + `"]` }

func checkLayer(t *testing.T, layer []byte) {
	t.Helper()
	headers, files := unpack(t, layer)
	owners := map[string]int{}
	for _, h := range headers {
		owners[h.Name] = h.Uid
		if h.Uid != h.Gid || h.Mode != 0o755 || h.ModTime.Unix() != 0 {
			t.Errorf("%+v", h)
		}
	}
	for name, owner := range map[string]int{"pintle": 0, "etc/pintle/": 0, "var/lib/pintle/": user, "run/pintle/": user} {
		if got, ok := owners[name]; !ok || got != owner {
			t.Errorf("%s: there: %v, owner %d, want %d", name, ok, got, owner)
		}
	}
	if !bytes.Equal(files["pintle"], image().Program) {
		t.Error("another program")
	}
	// setcap cap_net_admin,cap_net_raw,cap_sys_nice=ep FILE; getfattr -e hex -n security.capability FILE
	if got := fmt.Sprintf("%x", headers[len(headers)-1].PAXRecords["SCHILY.xattr.security.capability"]); got != "0100000200308000"+"000000000000000000000000" {
		t.Errorf("capabilities %s", got)
	}
}

// The same input makes the same bytes.
func TestReproducible(t *testing.T) {
	one, err1 := image().Archive()
	two, err2 := image().Archive()
	if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Error("two builds differ", err1, err2)
	}
}

func TestFullName(t *testing.T) {
	for name, want := range map[string]string{
		"pintle": "docker.io/library/pintle:v1", "pintle-lb/pintle": "docker.io/pintle-lb/pintle:v1",
		"ghcr.io/pintle-lb/pintle": "ghcr.io/pintle-lb/pintle:v1", "localhost/pintle": "localhost/pintle:v1", "registry:5000/pintle": "registry:5000/pintle:v1",
	} {
		if got := (Image{Name: name, Version: "v1"}).fullName(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	for what, change := range map[string]func(*Image){
		"a tag in the name":         func(i *Image) { i.Name = "pintle:v1" },
		"no name":                   func(i *Image) { i.Name = "" },
		"a version that is no tag":  func(i *Image) { i.Version = "v1+2" },
		"an architecture":           func(i *Image) { i.Arch = "mips" },
		"another architecture":      func(i *Image) { i.Arch = "amd64" },
		"no program":                func(i *Image) { i.Program = []byte("#!/bin/sh") },
		"a dynamic program":         func(i *Image) { i.Program = program(elf.EM_AARCH64, true) },
		"a program with half a top": func(i *Image) { i.Program = i.Program[:40] },
	} {
		i := image()
		change(&i)
		if _, err := i.Archive(); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	binary, out := filepath.Join(dir, "pintle"), filepath.Join(dir, "image", "pintle.tar")
	i := image()
	if err := write(i, binary, out); err == nil {
		t.Error("wrote without a program")
	}
	if err := os.WriteFile(binary, i.Program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := write(i, binary, out); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	want, _ := i.Archive()
	if err != nil || !bytes.Equal(got, want) {
		t.Error("not what was made", err)
	}
}
