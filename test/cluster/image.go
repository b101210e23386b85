package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// An Image is a container image of one layer, from nothing.
type Image struct {
	Names      []string          // with tags: localhost/pintle:test
	Files      map[string]string // by absolute path in the image, where they are on this host; all can be executed
	Entrypoint []string
}

// WriteFile writes the image in the format of `docker save`, which every container runtime imports.
func (i Image) WriteFile(file string) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("write image %v: %w", i.Names, err)
	}
	layerHash := digest(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": i.Entrypoint, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + layerHash}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": digest(config) + ".json", "RepoTags": i.Names, "Layers": []string{layerHash + "/layer.tar"}}})
	if err != nil {
		return err
	}
	archive, err := archive([]archived{{digest(config) + ".json", config, 0o644}, {layerHash + "/layer.tar", layer, 0o644}, {"manifest.json", manifest, 0o644}})
	if err != nil {
		return fmt.Errorf("write image %v: %w", i.Names, err)
	}
	return os.WriteFile(file, archive, 0o644)
}

// layer has the files and the folders that they are in, each after the one that it is in.
func (i Image) layer() ([]byte, error) {
	var all []archived
	for name, from := range i.Files {
		content, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		name = strings.TrimPrefix(path.Clean(name), "/")
		all = append(all, archived{name, content, 0o755})
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			all = append(all, archived{name: dir + "/", mode: 0o755})
		}
	}
	slices.SortFunc(all, func(a, b archived) int { return strings.Compare(a.name, b.name) })
	return archive(slices.CompactFunc(all, func(a, b archived) bool { return a.name == b.name }))
}

// An archived is a file of an archive; a name that ends in a slash is a folder's.
type archived struct {
	name    string
	content []byte
	mode    int64
}

func archive(files []archived) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Size: int64(len(f.content)), Mode: f.mode, Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
