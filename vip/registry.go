package vip

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// registry is the directory in which the instances of one network namespace know of each other:
//
//	.lock            taken for each look at, or change of, the others
//	INSTANCE.lock    held as long as the instance lives; contains its process ID
//	INSTANCE.json    the addresses that the instance has ever bound, and whether it ever hushed any; written before it does
//	mute.json        what the links were before the first instance muted them
//
// The last instance removes the directory.
type registry struct {
	dir      string
	instance string
	life     string // of this network namespace, so that mute.json of an earlier one with the same inode is not used
	held     *os.File
}

// record is INSTANCE.json.
type record struct {
	PID   int          `json:"pid"`
	Addrs []netip.Addr `json:"addrs"`
	Hush  bool         `json:"hush,omitempty"`
}

// saved is mute.json.
type saved struct {
	Namespace string      `json:"namespace"`
	Links     []savedLink `json:"links"`
}

// savedLink is a link as it was before it was muted.
type savedLink struct {
	Index    int    `json:"index"`
	Name     string `json:"name"`
	MAC      string `json:"mac"`
	Ignore   int    `json:"arp_ignore"`
	Announce int    `json:"arp_announce"`
}

// is reports whether l is the saved link. Links are renamed, and bridges and bonds change their MAC, but an index is given
// to another link only if someone asks for that.
func (s savedLink) is(l link) bool {
	return s.Index == l.Index && (s.Name == l.Name || s.MAC == l.MAC.String())
}

// newRegistry names the directory of the calling thread's network namespace. It makes nothing.
func newRegistry(runDir, instance string) (*registry, error) {
	info, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("find network namespace: %w", err)
	}
	life, err := namespaceLife()
	if err != nil {
		return nil, err
	}
	inode := info.Sys().(*syscall.Stat_t).Ino
	return &registry{dir: filepath.Join(runDir, fmt.Sprintf("netns-%d", inode)), instance: instance, life: life}, nil
}

// namespaceLife names the network namespace as no other one is ever named: by the boot and its cookie. An inode is used
// again as soon as a namespace has gone. Kernels before 5.14 have no cookie; the boot must do there.
func namespaceLife() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		cookie = 0
	}
	return fmt.Sprintf("%s/%d", strings.TrimSpace(string(boot)), cookie), nil
}

// checkInstance refuses names that are no good file names or that mean something else in the directory.
func checkInstance(name string) error {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c)
	}
	bad := strings.ContainsFunc(name, func(c rune) bool { return !plain(c) })
	if name == "" || len(name) > 64 || name[0] == '.' || name == "mute" || bad {
		return fmt.Errorf("check instance name %q: want 1 to 64 of letters, digits, '.', '_' and '-', not starting "+
			"with '.' and not \"mute\"", name)
	}
	return nil
}

// lockPatience is how long a lock may be taken by another instance that looks around; a frozen one could have it for ever.
const lockPatience = 10 * time.Second

// locked makes the directory if need be and runs f while no other instance, nor another goroutine of this one, is in
// there. f must not call locked.
func (r *registry) locked(f func() error) error {
	path := filepath.Join(r.dir, ".lock")
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(2 * time.Millisecond) {
		lock, err := r.tryDirectory(path)
		if err != nil {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if lock != nil {
			defer lock.Close()
			return f()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("lock %s: held for %s by another pintle in this network namespace; is one frozen?",
				path, lockPatience)
		}
	}
}

// tryDirectory returns nil when another has the lock, or had it and removed the directory.
func (r *registry) tryDirectory(path string) (*os.File, error) {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // removed in between
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if ok, err := tryLock(f); err != nil || !ok {
		f.Close()
		return nil, err
	}
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		f.Close()
		return nil, nil
	}
	return f, nil
}

func tryLock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// claim takes the instance's own lock. Call it locked.
func (r *registry) claim() error {
	path := r.path(r.instance, ".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open instance lock: %w", err)
	}
	ok, err := tryLock(f)
	if err == nil && !ok {
		err = fmt.Errorf("another pintle of instance %s is running (pid %s)", r.instance, readPID(f))
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err == nil {
		err = f.Truncate(int64(len(strconv.Itoa(os.Getpid())) + 1))
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("take instance lock %s: %w", path, err)
	}
	r.held = f
	return nil
}

func readPID(f *os.File) string {
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0)
	if pid := strings.TrimSpace(string(b[:n])); pid != "" {
		return pid
	}
	return "unknown"
}

// others returns the records of all other instances and our own earlier one: those that live, and those that died. Call
// it locked.
func (r *registry) others() (living, dead map[string]record, err error) {
	living, dead = map[string]record{}, map[string]record{}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list instances: %w", err)
	}
	for _, e := range entries {
		name, isLock := strings.CutSuffix(e.Name(), ".lock")
		if !isLock || name == "" {
			continue
		}
		var rec record
		if err := r.read(name, &rec, "remove the file; what it lists is then removed by its tag"); err != nil {
			return nil, nil, err
		}
		switch alive, err := r.alive(name); {
		case err != nil:
			return nil, nil, err
		case alive:
			living[name] = rec
		default:
			dead[name] = rec
		}
	}
	return living, dead, nil
}

// alive reports whether another instance's lock is held. Our own does not count.
func (r *registry) alive(name string) (bool, error) {
	if name == r.instance {
		return false, nil
	}
	f, err := os.OpenFile(r.path(name, ".lock"), os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("look at instance %s: %w", name, err)
	}
	defer f.Close()
	free, err := tryLock(f)
	if err != nil {
		return false, fmt.Errorf("look at instance %s: %w", name, err)
	}
	return !free, nil
}

// write replaces our record.
func (r *registry) write(addrs []netip.Addr, hush bool) error {
	return r.replace(r.instance, record{PID: os.Getpid(), Addrs: addrs, Hush: hush})
}

// originals returns what was saved of the links in this life of the namespace. Call it locked.
func (r *registry) originals() ([]savedLink, error) {
	var s saved
	hint := "set net.ipv4.conf.*.arp_ignore and arp_announce as you want them and remove the file"
	if err := r.read("mute", &s, hint); err != nil {
		return nil, err
	}
	if s.Namespace != r.life {
		return nil, nil
	}
	return s.Links, nil
}

// saveOriginals replaces what was saved of the links. Call it locked.
func (r *registry) saveOriginals(links []savedLink) error {
	return r.replace("mute", saved{Namespace: r.life, Links: links})
}

// forget removes the files of dead instances. Call it locked.
func (r *registry) forget(dead map[string]record) error {
	for name := range dead {
		if err := remove(r.path(name, ".json")); err != nil {
			return err
		}
		if name == r.instance { // its lock is ours now
			continue
		}
		if err := remove(r.path(name, ".lock")); err != nil {
			return err
		}
	}
	return nil
}

// leave removes our files, all files if we are the last, and gives up the instance's lock. Call it locked.
func (r *registry) leave(last bool) error {
	defer r.drop()
	if last {
		if err := os.RemoveAll(r.dir); err != nil {
			return fmt.Errorf("remove records: %w", err)
		}
		return nil
	}
	return errors.Join(remove(r.path(r.instance, ".json")), remove(r.path(r.instance, ".lock")))
}

// drop gives up the instance's lock and leaves the files for the next start.
func (r *registry) drop() {
	if r.held != nil {
		r.held.Close()
		r.held = nil
	}
}

func (r *registry) path(name, suffix string) string { return filepath.Join(r.dir, name+suffix) }

// read decodes NAME.json; without the file v stays as it is.
func (r *registry) read(name string, v any, hint string) error {
	path := r.path(name, ".json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w (the file is damaged: %s)", path, err, hint)
	}
	return nil
}

func (r *registry) replace(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	if err := renameio.WriteFile(r.path(name, ".json"), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// lists reports whether one of the records lists a.
func lists(records map[string]record, a netip.Addr) (instance string, ok bool) {
	for name, rec := range records {
		if slices.Contains(rec.Addrs, a) {
			return name, true
		}
	}
	return "", false
}

// mutes reports whether one of the instances may have an address for which the kernel must be mute.
func mutes(records map[string]record) bool {
	for _, rec := range records {
		if rec.Hush || slices.ContainsFunc(rec.Addrs, netip.Addr.Is4) {
			return true
		}
	}
	return false
}
