// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/peapod/peapod/linux"
)

// Folders are the persistent volumes that are folders of this node.
//
//	<root>/<name of the volume>
type Folders struct{ Root string }

// Path is where a volume lies.
func (f *Folders) Path(name string) string { return filepath.Join(f.Root, name) }

// Make makes a volume that all users of Pods may write to; one that is there
// stays as it is.
func (f *Folders) Make(name string) error {
	path := f.Path(name)
	if err := os.MkdirAll(f.Root, 0o711); err != nil {
		return fmt.Errorf("cannot make volume %s: %w", name, err)
	}
	switch err := os.Mkdir(path, 0o777); {
	case os.IsExist(err):
		return nil
	case err != nil:
		return fmt.Errorf("cannot make volume %s: %w", name, err)
	}
	if err := os.Chmod(path, 0o777); err != nil { // whatever the umask
		return fmt.Errorf("cannot make volume %s: %w", name, err)
	}
	return nil
}

// Remove removes a volume with all that is in it, but nothing that is mounted
// there. Repeating it is no error.
func (f *Folders) Remove(name string) error {
	path := f.Path(name)
	mounts, err := linux.MountsBelow(path)
	if err == nil && len(mounts) > 0 {
		err = fmt.Errorf("%s is still mounted", mounts[0])
	}
	if err == nil {
		err = os.RemoveAll(path)
	}
	if err != nil {
		return fmt.Errorf("cannot remove volume %s: %w", name, err)
	}
	return nil
}
