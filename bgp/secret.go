package bgp

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// maxPassword is the kernel's limit of a TCP-MD5 key, TCP_MD5SIG_MAXKEYLEN.
const maxPassword = 80

// readPassword returns the first line of the file. No error shows any of it.
func readPassword(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	defer f.Close()
	// ReadSlice ends at its buffer: a file that is no secret at all is not read to its end.
	line, err := bufio.NewReaderSize(f, 4096).ReadSlice('\n')
	key := strings.TrimRight(string(line), "\r\n")
	switch {
	case key == "" && err != nil && len(line) == 0:
		return nil, fmt.Errorf("read password: %s is empty", file)
	case key == "":
		return nil, fmt.Errorf("read password: the first line of %s is empty", file)
	case len(key) > maxPassword:
		return nil, fmt.Errorf("read password: the first line of %s is longer than %d bytes, the limit of TCP-MD5", file, maxPassword)
	}
	return []byte(key), nil
}

// exposed says that every user of the machine may read the file. It is worth a warning and no more: that is how a Secret is
// mounted into a pod unless defaultMode says otherwise, and there nobody else is.
func exposed(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().Perm()&0o004 != 0
}
