//go:build linux || darwin

package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
)

// A child process of these tests is told what to do by its environment.
const (
	childWork = "FILESTORE_CHILD_WORK"
	childDir  = "FILESTORE_CHILD_DIR"
)

func TestMain(m *testing.M) {
	work, arg, _ := strings.Cut(os.Getenv(childWork), " ")
	switch work {
	case "":
		os.Exit(m.Run())
	case "write":
		childWrites()
	case "full":
		limit, _ := strconv.Atoi(arg)
		childIsFull(uint64(limit))
	}
}

func child(t *testing.T, dir, work string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childWork+"="+work, childDir+"="+dir)
	return cmd
}

func childStore() *filestore.Store {
	s, err := filestore.New(os.Getenv(childDir), nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	return s
}

// versionOf returns an object's bytes: n, and as many more bytes as n says.
func versionOf(n int) []byte {
	return append(fmt.Appendf(nil, "%d\n", n), bytes.Repeat([]byte{byte(n)}, n)...)
}

// childWrites creates, replaces and deletes objects until it is killed. It tells each exclusive create that was committed.
func childWrites() {
	s := childStore()
	ctx := context.Background()
	for i := 0; ; i++ {
		n := rand.IntN(3 << 20)
		key := fmt.Sprintf("new/%d-%d/object", os.Getpid(), i)
		check := func(err error) {
			if err != nil {
				fmt.Println("error", err)
				os.Exit(3)
			}
		}
		check(storage.WriteFile(ctx, s, key, versionOf(n), &storage.CreateOptions{IfNotExist: true}))
		fmt.Println("committed", key)
		check(storage.WriteFile(ctx, s, fmt.Sprintf("replaced/%d", i%3), versionOf(n), nil))
		if i%3 == 0 {
			fmt.Println("deleting", key)
			check(s.Delete(ctx, key))
			fmt.Println("deleted", key)
		}
	}
}

// TestKilledWriter kills a process at any moment of its work, again and again. What is listed is whole, what was
// committed is there, what was deleted is not, and a sweep leaves nothing but objects.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	kills, unfinished := 0, 0
	state := map[string]string{}
	// How many of them meet a write, or come after one, is for the machine to say.
	for ; kills < 15 || (unfinished == 0 || len(state) == 0) && kills < 150; kills++ {
		cmd := child(t, dir, "write")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+rand.IntN(60+4*kills)) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		for line := range strings.Lines(out.String()) {
			what, key, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			switch {
			case !strings.HasSuffix(line, "\n"): // killed while it spoke
			case strings.HasSuffix(key, "/object"):
				state[key] = what
			default:
				t.Fatalf("the child says %q", line)
			}
		}
		listed := list(t, s, "")
		for _, key := range listed {
			data, err := storage.ReadFile(t.Context(), s, key, 4<<20)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := bytes.Cut(data, []byte("\n"))
			n, err := strconv.Atoi(string(first))
			if err != nil || !bytes.Equal(data, versionOf(n)) {
				t.Fatalf("%s has %d bytes, which is not the whole of any version; it says %q", key, len(data), first)
			}
		}
		for key, what := range state {
			there := slices.Contains(listed, key)
			if what == "committed" && !there || what == "deleted" && there {
				t.Fatalf("%s was %s, and it is listed: %v", key, what, there)
			}
		}
		n, _, err := s.SweepUnfinished(t.Context(), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		unfinished += n
		files := slices.DeleteFunc(tree(t, dir), func(name string) bool { return strings.HasSuffix(name, "/") })
		slices.Sort(files)
		if !slices.Equal(files, listed) {
			t.Fatalf("after the sweep there are the files %q and the objects %q", files, listed)
		}
	}
	if unfinished == 0 || len(state) == 0 {
		t.Errorf("in %d kills %d unfinished files were left and %d objects told of: the test has not met what it is for", kills, unfinished, len(state))
	}
}

// childIsFull writes objects of 3 MiB with room for limit bytes in a file, which is how a full disk looks to a writer: a
// short write and an error, at any byte.
func childIsFull(limit uint64) {
	signal.Ignore(syscall.SIGXFSZ)
	s := childStore()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	ctx := context.Background()
	data := make([]byte, 3<<20)
	for _, key := range []string{"old", "new/object"} {
		w, err := s.Create(ctx, key, nil)
		if err != nil {
			fmt.Println("Create:", err)
			os.Exit(3)
		}
		n, err := w.Write(data)
		if uint64(n) != limit || !errors.Is(err, syscall.EFBIG) {
			fmt.Printf("Write with room for %d bytes returned %d, %v\n", limit, n, err)
			os.Exit(3)
		}
		if n, err := w.Write([]byte("more")); n != 0 || err == nil {
			fmt.Printf("Write after one that failed returned %d, %v\n", n, err)
			os.Exit(3)
		}
		if _, err := w.Commit(ctx); !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), "nothing was stored") {
			fmt.Println("Commit:", err)
			os.Exit(3)
		}
		if err := w.Abort(); err != nil {
			fmt.Println("Abort:", err)
			os.Exit(3)
		}
	}
	io.WriteString(os.Stdout, "as it should be")
}

func TestFull(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{0, 1, 4095, 4096, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 - 1} {
		dir := t.TempDir()
		s := open(t, dir)
		put(t, s, "old", "old")
		out, err := child(t, dir, fmt.Sprintf("full %d", limit)).CombinedOutput()
		if err != nil || string(out) != "as it should be" {
			t.Errorf("with room for %d bytes: %v\n%s", limit, err, out)
		}
		if got := tree(t, dir); !slices.Equal(got, []string{"old"}) {
			t.Errorf("with room for %d bytes the directory has %q in the end", limit, got)
		}
		if data, err := os.ReadFile(filepath.Join(dir, "old")); err != nil || string(data) != "old" {
			t.Errorf("with room for %d bytes the former object reads %q, %v", limit, data, err)
		}
	}
}

// TestPipe: somebody's named pipe in the place of an object doesn't hang anybody.
func TestPipe(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), "pipe", 0, -1); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Open: %v", err)
	}
	if got := append(list(t, s, ""), list(t, s, "pipe/")...); len(got) != 0 {
		t.Errorf("List gives %q", got)
	}
}
