package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A printer shows a demo while it goes on.
type printer interface {
	start(*cluster)
	fault(holder *machine, f fault)
	result(Result) error
	summary([]Result) error
}

func newPrinter(opts Options) printer {
	if opts.JSON {
		return jsonPrinter{json.NewEncoder(opts.Out)}
	}
	return &textPrinter{out: opts.Out, live: isTerminal(opts.Out), colour: isTerminal(opts.Out) && os.Getenv("NO_COLOR") == ""}
}

// A jsonPrinter prints one object a line.
type jsonPrinter struct{ enc *json.Encoder }

func (jsonPrinter) start(*cluster)              {}
func (jsonPrinter) fault(*machine, fault)       {}
func (p jsonPrinter) result(r Result) error     { return p.enc.Encode(r) }
func (p jsonPrinter) summary(rs []Result) error { return p.enc.Encode(Summarize(rs)) }

// A textPrinter prints a table that grows. On a terminal the line of the present fault is replaced by its result.
type textPrinter struct {
	out          io.Writer
	live, colour bool
	err          error // the first of writing to out
}

const (
	bold  = "1"
	red   = "31"
	green = "32"
	dim   = "2"
)

// row is a line of the table: what was done, new holder, takeover, outage, lost, answers by two.
const row = "%-58s %-10s %10s %10s %6s %6s"

func (p *textPrinter) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(p.out, format, args...); err != nil && p.err == nil {
		p.err = fmt.Errorf("print: %w", err)
	}
}

func (p *textPrinter) start(c *cluster) {
	holder, _ := c.watch.holder()
	p.printf("%d machines keep the address %s, profile %s. A client asks for it each %v.\n", len(c.machines), Address, c.profile, c.every)
	p.printf("%s holds it. Every fault is done to the holder, and healed before the next.\n", p.paint(bold, holder))
	if now := c.probe.Mark(); !c.probe.Report(now, now).Realtime {
		p.printf("%s\n", p.paint(dim, "No real-time priority here: a busy machine adds to the times."))
	}
	head := fmt.Sprintf(row, "", "new holder", "answers in", "outage", "lost", "two*")
	p.printf("\n%s\n", p.paint(dim, head))
}

func (p *textPrinter) fault(holder *machine, f fault) {
	if p.live {
		p.printf("%s %s ...", p.paint(bold, holder.name()), f.text)
	}
}

func (p *textPrinter) result(r Result) error {
	if p.live {
		p.printf("\r\x1b[K")
	}
	takeover := ms(r.TakeoverMS)
	if r.To == r.From {
		takeover = "-"
	}
	line := fmt.Sprintf(row, r.From+" "+faults[r.Fault].text, r.To, takeover, ms(r.OutageMS), fmt.Sprint(r.Lost), fmt.Sprint(r.Dual))
	colour := green
	if r.Dual > 0 {
		colour = red
	}
	name, two := len(r.From), len(line)-6
	p.printf("%s%s%s\n", p.paint(bold, line[:name]), line[name:two], p.paint(colour, line[two:]))
	return p.err
}

func (p *textPrinter) summary(rs []Result) error {
	p.printf("%s\n\n", p.paint(dim, "* questions that two machines answered"))
	s := Summarize(rs)
	for _, f := range order(rs) {
		t := s.PerFault[f]
		p.printf("%-7s outage %s (longest %s), another answers after %s, %g questions lost\n",
			f, ms(t.MedianMS), ms(t.MaxMS), ms(t.TakeoverMedianMS), t.LostMedian)
	}
	verdict := p.paint(green, "Never did two machines answer.")
	if n := dualAnswers(rs); n > 0 {
		verdict = p.paint(red, fmt.Sprintf("Two machines answered %d times.", n))
	}
	worst := slices.Max(column(rs, func(r Result) float64 { return r.OutageMS }))
	p.printf("\n%d faults, and the address came back each time, after %s at most. %s\n", len(rs), ms(worst), verdict)
	return p.err
}

// order lists the faults as they came.
func order(rs []Result) []string {
	var names []string
	for _, r := range rs {
		if !slices.Contains(names, r.Fault) {
			names = append(names, r.Fault)
		}
	}
	return names
}

func (p *textPrinter) paint(code, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func ms(v float64) string { return fmt.Sprintf("%.1f ms", v) }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
