package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// An Image is the program alone, in directories that its mounts need. The Dockerfile makes the same one.
type Image struct {
	Name    string // without a tag; without a host it is docker.io/library's, as container programs complete it
	Version string // the tag
	Arch    string
	Program []byte
}

const (
	user    = 65532 // as in the Dockerfile; a pod that reads the keys of root runs as root
	epoch   = "1970-01-01T00:00:00Z"
	ociType = "application/vnd.oci.image."
)

// labels are those of the Dockerfile.
func (i Image) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    "pintle",
		"org.opencontainers.image.source":   "https://github.com/pintle-lb/pintle",
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.version":  i.Version,
	}
}

// A descriptor points at a blob (OCI image specification 1.1, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// An archive is the files of an image, in their order.
type archive struct {
	names []string
	files map[string][]byte
}

func (a *archive) add(name string, data []byte) {
	if _, there := a.files[name]; there {
		return
	}
	a.names, a.files[name] = append(a.names, name), data
}

// blob adds data under its digest.
func (a *archive) blob(mediaType string, data []byte) descriptor {
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	a.add("blobs/sha256/"+sum, data)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(data)}
}

// Archive is the image as a tar: an OCI layout (image-layout.md), which containerd reads, and the manifest.json of
// `docker save` beside it, both of the same blobs.
func (i Image) Archive() ([]byte, error) {
	if err := i.check(); err != nil {
		return nil, err
	}
	layer, err := i.layer()
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression) // no error for a level that there is
	if _, err := z.Write(layer); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	a := archive{files: map[string][]byte{}}
	packedLayer := a.blob(ociType+"layer.v1.tar+gzip", packed.Bytes())
	config := a.blob(ociType+"config.v1+json", encode(i.config(fmt.Sprintf("sha256:%x", sha256.Sum256(layer)))))
	manifest := a.blob(ociType+"manifest.v1+json", encode(map[string]any{"schemaVersion": 2, "mediaType": ociType + "manifest.v1+json",
		"config": config, "layers": []descriptor{packedLayer}, "annotations": i.labels()}))
	manifest.Platform = &platform{i.Arch, "linux"}
	manifest.Annotations = map[string]string{"io.containerd.image.name": i.fullName(), "org.opencontainers.image.ref.name": i.Version}
	a.add("index.json", encode(map[string]any{"schemaVersion": 2, "mediaType": ociType + "index.v1+json", "manifests": []descriptor{manifest}}))
	a.add("manifest.json", encode([]map[string]any{{"Config": path(config), "RepoTags": []string{i.Name + ":" + i.Version}, "Layers": []string{path(packedLayer)}}}))
	a.add("oci-layout", encode(map[string]string{"imageLayoutVersion": "1.0.0"}))
	return a.tar()
}

// path is where a blob is in the archive.
func path(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }

var (
	// The grammar of github.com/distribution/reference, a little narrower.
	imageName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*$`)
	imageTag  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	machines  = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
)

// check refuses names that container programs refuse, and a program of another architecture.
func (i Image) check() error {
	if !imageName.MatchString(i.Name) {
		return fmt.Errorf("name %q: not the name of an image without a tag", i.Name)
	}
	if !imageTag.MatchString(i.Version) {
		return fmt.Errorf("version %q: not a tag", i.Version)
	}
	want, ok := machines[i.Arch]
	if !ok {
		return fmt.Errorf("architecture %q: want amd64 or arm64", i.Arch)
	}
	file, err := elf.NewFile(bytes.NewReader(i.Program))
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	if file.Machine != want {
		return fmt.Errorf("program is for %s, want %s", file.Machine, want)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("program is linked dynamically: build it with CGO_ENABLED=0")
		}
	}
	return nil
}

// fullName is the name as container programs complete it.
func (i Image) fullName() string {
	first, _, deep := strings.Cut(i.Name, "/")
	switch {
	case deep && (strings.ContainsAny(first, ".:") || first == "localhost"):
		return i.Name + ":" + i.Version
	case deep:
		return "docker.io/" + i.Name + ":" + i.Version
	}
	return "docker.io/library/" + i.Name + ":" + i.Version
}

// config is what runs (config.md), as in the Dockerfile.
func (i Image) config(diffID string) any {
	return map[string]any{
		"created": epoch, "architecture": i.Arch, "os": "linux",
		"config": map[string]any{
			"User": fmt.Sprintf("%d:%d", user, user), "Entrypoint": []string{"/pintle"}, "Cmd": []string{"run", "--config", "/etc/pintle/pintle.yaml"},
			"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, "WorkingDir": "/", "Labels": i.labels(),
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{diffID}},
		"history": []map[string]any{{"created": epoch, "created_by": "tools/image"}},
	}
}

// layer is the file system.
func (i Image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, d := range []struct {
		name  string
		owner int
	}{{"etc/", 0}, {"etc/pintle/", 0}, {"run/", 0}, {"run/pintle/", user}, {"var/", 0}, {"var/lib/", 0}, {"var/lib/pintle/", user}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d.name, Mode: 0o755, Uid: d.owner, Gid: d.owner}); err != nil {
			return nil, err
		}
	}
	program := &tar.Header{Typeflag: tar.TypeReg, Name: "pintle", Mode: 0o755, Size: int64(len(i.Program)), Format: tar.FormatPAX,
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": string(capabilities())}}
	if err := w.WriteHeader(program); err != nil {
		return nil, err
	}
	if _, err := w.Write(i.Program); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

// capabilities is what `setcap cap_net_admin,cap_net_raw,cap_sys_nice=ep` puts on a file: struct vfs_cap_data of
// linux/capability.h, revision 2, with the effective flag; for users other than root.
func capabilities() []byte {
	const revision2, effective = 0x02000000, 0x000001
	const netAdmin, netRaw, sysNice = 12, 13, 23
	var out []byte
	for _, v := range []uint32{revision2 | effective, 1<<netAdmin | 1<<netRaw | 1<<sysNice, 0, 0, 0} {
		out = binary.LittleEndian.AppendUint32(out, v)
	}
	return out
}

// encode writes JSON; keys of maps are in order.
func encode(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // nothing in here fails
	}
	return out
}

// tar packs the archive, with no time and no owner in it.
func (a *archive) tar() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range a.names {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(a.files[name]))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(a.files[name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}
