// Command helm is what tests need of Helm, by its own library: lint a chart, and render it as `helm install` would.
//
//	helm [-kube VERSION] [-namespace NAME] [-values FILE] [-lint] CHART
//
// It prints the objects, and after them in comments what a person is told; with -lint what is to be said against the chart. The status is
// 1 if something is: values that the schema refuses, a cluster that is too old, a template that fails.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
)

// A release is what is to be made of a chart.
type release struct {
	chart, namespace string
	kube             *common.KubeVersion
	values           map[string]any
}

func main() {
	kube := flag.String("kube", "v1.29.0", "version of the cluster")
	namespace := flag.String("namespace", "pintle-system", "namespace of the release")
	values := flag.String("values", "", "file with values")
	only := flag.Bool("lint", false, "lint the chart")
	flag.Parse()
	if err := run(os.Stdout, *kube, *namespace, *values, *only, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "helm:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, kube, namespace, values string, only bool, args []string) error {
	if len(args) != 1 {
		return errors.New("want one chart")
	}
	r := release{chart: args[0], namespace: namespace, values: map[string]any{}}
	var err error
	if r.kube, err = common.ParseKubeVersion(kube); err != nil {
		return err
	}
	if values != "" {
		if r.values, err = common.ReadValuesFile(values); err != nil {
			return err
		}
	}
	if only {
		return r.lint()
	}
	return r.render(w)
}

// lint makes an error of all messages, also of warnings.
func (r release) lint() error {
	var errs []error
	for _, m := range lint.RunAll(r.chart, r.values, r.namespace, lint.WithKubeVersion(r.kube)).Messages {
		if m.Severity > support.InfoSev {
			errs = append(errs, m)
		}
	}
	return errors.Join(errs...)
}

func (r release) render(w io.Writer) error {
	c, err := loader.LoadDir(r.chart)
	if err != nil {
		return err
	}
	if !chartutil.IsCompatibleRange(c.Metadata.KubeVersion, r.kube.String()) {
		return fmt.Errorf("the chart is for Kubernetes %s, and this is %s", c.Metadata.KubeVersion, r.kube)
	}
	caps := common.DefaultCapabilities.Copy()
	caps.KubeVersion = *r.kube
	values, err := util.ToRenderValues(c, r.values, common.ReleaseOptions{Name: "release", Namespace: r.namespace, IsInstall: true}, caps)
	if err != nil {
		return err
	}
	files, err := engine.Render(c, values)
	if err != nil {
		return err
	}
	return print(w, files)
}

// print writes the objects, and what else there is in comments.
func print(w io.Writer, files map[string]string) error {
	var out, notes strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := strings.TrimSpace(files[name])
		switch {
		case text == "":
		case path.Ext(name) == ".yaml":
			fmt.Fprintf(&out, "---\n%s\n", text)
		default:
			fmt.Fprintf(&notes, "# %s\n", strings.ReplaceAll(text, "\n", "\n# "))
		}
	}
	_, err := io.WriteString(w, out.String()+notes.String())
	return err
}
