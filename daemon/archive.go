// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// A backup is a tar archive in gzip's form. It can be looked into with tar, and
// what was unpacked checked with `sha256sum -c SHA256SUMS`:
//
//	backup.json   about it
//	pki/...       the folder of keys and certificates
//	etcd.db       a snapshot of etcd, as `etcdutl snapshot restore` takes it
//	SHA256SUMS    the sums of all files before it; without it an archive is cut off
const (
	aboutFile    = "backup.json"
	pkiFolder    = "pki"
	snapshotFile = "etcd.db"
	sumsFile     = "SHA256SUMS"
)

// archiveVersion is the form of an archive that this program knows.
const archiveVersion = 1

// About is what a backup says of itself.
type About struct {
	Version    int       `json:"version"`
	Made       time.Time `json:"made"`
	Kubernetes string    `json:"kubernetes"`
	Peapod     string    `json:"peapod"`
}

// archive writes a backup.
type archive struct {
	packed *gzip.Writer
	tar    *tar.Writer
	sums   strings.Builder
	made   time.Time
}

func newArchive(w io.Writer, made time.Time) (*archive, error) {
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	return &archive{packed: packed, tar: tar.NewWriter(packed), made: made}, nil
}

// add writes a file and notes its sum.
func (a *archive) add(name string, size int64, r io.Reader) error {
	sum := sha256.New()
	if err := a.put(name, size, io.TeeReader(r, sum)); err != nil {
		return err
	}
	fmt.Fprintf(&a.sums, "%x  %s\n", sum.Sum(nil), name)
	return nil
}

func (a *archive) put(name string, size int64, r io.Reader) error {
	header := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: a.made}
	if err := a.tar.WriteHeader(&header); err != nil {
		return err
	}
	_, err := io.Copy(a.tar, r)
	return err
}

// addFile adds a file of the disk.
func (a *archive) addFile(name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.add(name, info.Size(), f)
}

// close writes the sums, by which the archive is whole.
func (a *archive) close() error {
	sums := a.sums.String()
	return errors.Join(a.put(sumsFile, int64(len(sums)), strings.NewReader(sums)), a.tar.Close(), a.packed.Close())
}

// errDamaged says that an archive is not as it was written.
var errDamaged = errors.New("it is damaged or cut off")

// readArchive gives each file of an archive to put, and then says whether all
// of them are as they were written: only then may they be used.
func readArchive(file string, put func(name string, r io.Reader) error) (about About, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot use backup %s: %w", file, err)
		}
	}()
	f, err := os.Open(file)
	if err != nil {
		return about, bare(err)
	}
	defer f.Close()
	packed, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return about, fmt.Errorf("it is not a backup of Peapod: %w", err)
	}
	entries := tar.NewReader(packed)
	found, sums := map[string]string{}, map[string]string{}
	for sumsSeen := false; !sumsSeen; {
		header, err := entries.Next()
		if err != nil {
			return about, fmt.Errorf("%w: %w", errDamaged, err)
		}
		sum, name := sha256.New(), header.Name
		switch content := io.TeeReader(entries, sum); {
		case name == sumsFile:
			sumsSeen = true
			sums, err = readSums(entries)
		case name == aboutFile:
			about, err = readAbout(content)
		case header.Typeflag == tar.TypeReg && (name == snapshotFile || strings.HasPrefix(name, pkiFolder+"/") && fs.ValidPath(name)):
			err = put(name, content)
		default:
			err = fmt.Errorf("it has %q, which no backup of Peapod has", name)
		}
		if err == nil && !sumsSeen {
			err = finish(entries, sum)
		}
		if err != nil {
			return about, err
		}
		found[name] = hex.EncodeToString(sum.Sum(nil))
	}
	// gzip's own sum comes last.
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return about, fmt.Errorf("%w: %w", errDamaged, err)
	}
	delete(found, sumsFile)
	return about, compareSums(found, sums)
}

// finish sums up what put has left.
func finish(r io.Reader, sum hash.Hash) error {
	if _, err := io.Copy(sum, r); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

func compareSums(found, sums map[string]string) error {
	for name, sum := range sums {
		if found[name] != sum {
			return fmt.Errorf("%w: %s is not as it was written", errDamaged, name)
		}
	}
	for _, name := range []string{aboutFile, snapshotFile, path.Join(pkiFolder, "ca.crt")} {
		if sums[name] == "" {
			return fmt.Errorf("%w: %s is missing", errDamaged, name)
		}
	}
	if len(found) != len(sums) {
		return fmt.Errorf("%w: it has files that it has no sums of", errDamaged)
	}
	return nil
}

func readAbout(r io.Reader) (a About, err error) {
	if err := json.NewDecoder(r).Decode(&a); err != nil {
		return a, fmt.Errorf("%w: %s: %w", errDamaged, aboutFile, err)
	}
	if a.Version != archiveVersion {
		return a, fmt.Errorf("its form is version %d, this program knows version %d", a.Version, archiveVersion)
	}
	return a, nil
}

func readSums(r io.Reader) (map[string]string, error) {
	sums := map[string]string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		sum, name, _ := strings.Cut(lines.Text(), "  ")
		sums[name] = sum
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return sums, nil
}
