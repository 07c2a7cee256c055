// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/peapod/peapod/apiserver"
)

// Backup writes the cluster that runs on a data folder into a file, 0600: all
// objects as of one moment, and the keys that make its clients and tokens good.
func Backup(ctx context.Context, dataDir, file string) (err error) {
	l, err := newLayout(dataDir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot back up the cluster of %s: %w", l.root, err)
		}
	}()
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	snapshot, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".etcd.*")
	if err != nil {
		return err
	}
	defer os.Remove(snapshot.Name())
	defer snapshot.Close()
	if err := l.fetchSnapshot(ctx, snapshot); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // gone when it has its name
	defer out.Close()
	if err := l.writeBackup(out, snapshot.Name()); err != nil {
		return err
	}
	if err := errors.Join(out.Sync(), os.Rename(out.Name(), file)); err != nil {
		return err
	}
	return syncAll(filepath.Dir(file))
}

// fetchSnapshot asks the running API server for all that etcd holds.
func (l layout) fetchSnapshot(ctx context.Context, w io.Writer) error {
	config, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig())
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("no cluster has been started there; choose another folder with --data-dir")
	} else if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+apiserver.SnapshotPath, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return fmt.Errorf("it does not answer, start it with `peapod up`: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // for the message alone
		return fmt.Errorf("the API server says %s: %s", response.Status, bytes.TrimSpace(said))
	}
	if _, err := io.Copy(w, response.Body); err != nil {
		return fmt.Errorf("the snapshot of etcd broke off: %w", err)
	}
	return nil
}

func (l layout) writeBackup(w io.Writer, snapshot string) error {
	now := time.Now().UTC().Truncate(time.Second)
	a, err := newArchive(w, now)
	if err != nil {
		return err
	}
	about, err := json.Marshal(About{Version: archiveVersion, Made: now, Kubernetes: KubernetesVersion, Peapod: Version})
	if err != nil {
		return err
	}
	if err := a.add(aboutFile, int64(len(about)), bytes.NewReader(about)); err != nil {
		return err
	}
	pki := l.path(pkiFolder)
	err = fs.WalkDir(os.DirFS(pki), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return a.addFile(path.Join(pkiFolder, name), filepath.Join(pki, name))
	})
	if err != nil {
		return err
	}
	if err := a.addFile(snapshotFile, snapshot); err != nil {
		return err
	}
	return a.close()
}
