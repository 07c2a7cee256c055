// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
)

// User is whom a container runs as.
type User struct {
	UID, GID uint32
	// Additional groups; the first is GID.
	Additional []uint32
	// Home is the home folder by /etc/passwd, "/" if that does not say.
	Home string
}

// ResolveUser finds whom a container runs as: by its security context, else
// by USER of its image, "user", "user:group", both as names or numbers. Names
// are looked up in /etc/passwd and /etc/group inside rootfs, which may be
// hostile; a number need not be there. With the policy Strict the groups that
// /etc/group puts the user in are left out.
func ResolveUser(rootfs string, sec *runtimeapi.LinuxContainerSecurityContext, imageUser string) (User, error) {
	u, err := resolveUser(rootfs, sec, imageUser)
	if err != nil {
		return User{}, fmt.Errorf("cannot find user of container: %w", err)
	}
	return u, nil
}

func resolveUser(rootfs string, sec *runtimeapi.LinuxContainerSecurityContext, imageUser string) (User, error) {
	user, group, err := wanted(sec, imageUser)
	if err != nil {
		return User{}, err
	}
	u := User{Home: "/"}
	entry, found, err := lookup(rootfs, "/etc/passwd", user, 7)
	if err != nil {
		return User{}, err
	}
	name := ""
	switch id, isID := number(user); {
	case found:
		// passwd(5): name, password, uid, gid, comment, home, shell.
		uid, okUID := number(entry[2])
		gid, okGID := number(entry[3])
		if !okUID || !okGID {
			return User{}, invalid("/etc/passwd has bad numbers for %s", user)
		}
		name, u.UID, u.GID = entry[0], uid, gid
		if strings.HasPrefix(entry[5], "/") {
			u.Home = entry[5]
		}
	case isID:
		u.UID = id
	default:
		return User{}, invalid("user %q is not in /etc/passwd of the image", user)
	}
	if group != "" {
		if u.GID, err = lookupGroup(rootfs, group); err != nil {
			return User{}, err
		}
	}
	u.Additional = []uint32{u.GID}
	if sec.GetSupplementalGroupsPolicy() != runtimeapi.SupplementalGroupsPolicy_Strict && name != "" {
		more, err := memberships(rootfs, name)
		if err != nil {
			return User{}, err
		}
		u.add(more)
	}
	for _, g := range sec.GetSupplementalGroups() {
		if g < 0 || g > 1<<31-1 {
			return User{}, invalid("supplemental group %d is out of range", g)
		}
		u.add([]uint32{uint32(g)})
	}
	return u, nil
}

func (u *User) add(groups []uint32) {
	for _, g := range groups {
		if !slices.Contains(u.Additional, g) {
			u.Additional = append(u.Additional, g)
		}
	}
}

// wanted returns user and group, each a name, a number, or for the group "".
func wanted(sec *runtimeapi.LinuxContainerSecurityContext, imageUser string) (user, group string, err error) {
	switch {
	case sec.GetRunAsUser() != nil:
		user = strconv.FormatInt(sec.GetRunAsUser().GetValue(), 10)
	case sec.GetRunAsUsername() != "":
		user = sec.GetRunAsUsername()
	}
	if g := sec.GetRunAsGroup(); g != nil {
		if user == "" {
			return "", "", invalid("user group %d is specified without user", g.GetValue())
		}
		group = strconv.FormatInt(g.GetValue(), 10)
	}
	if user == "" {
		user, group, _ = strings.Cut(imageUser, ":")
	}
	if user == "" {
		user = "0"
	}
	if strings.HasPrefix(user, "-") || strings.HasPrefix(group, "-") {
		return "", "", invalid("user %s:%s is negative", user, group)
	}
	return user, group, nil
}

// number reads an ID of user or group.
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

func lookupGroup(rootfs, group string) (uint32, error) {
	// group(5): name, password, gid, members.
	if id, ok := number(group); ok {
		return id, nil
	}
	entry, found, err := lookup(rootfs, "/etc/group", group, 3)
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, invalid("group %q is not in /etc/group of the image", group)
	}
	id, ok := number(entry[2])
	if !ok {
		return 0, invalid("/etc/group has a bad number for %s", group)
	}
	return id, nil
}

// lookup finds the entry whose name, or else number, is key.
func lookup(rootfs, file, key string, fields int) (entry []string, found bool, err error) {
	_, isID := number(key)
	err = entries(rootfs, file, func(f []string) bool {
		if len(f) >= fields && (f[0] == key || isID && f[2] == key) {
			entry, found = f, true
		}
		return !found
	})
	return entry, found, err
}

func memberships(rootfs, name string) ([]uint32, error) {
	var out []uint32
	err := entries(rootfs, "/etc/group", func(f []string) bool {
		if len(f) >= 4 && slices.Contains(strings.Split(f[3], ","), name) {
			if id, ok := number(f[2]); ok {
				out = append(out, id)
			}
		}
		return true
	})
	return out, err
}

// maxDatabase is how much of /etc/passwd and /etc/group is read, in bytes.
const maxDatabase = 4 << 20

// entries calls visit with the fields of each line until it returns false. A
// file that is missing has no lines.
func entries(rootfs, file string, visit func([]string) bool) error {
	f, err := linux.OpenInRoot(rootfs, file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxDatabase))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !visit(strings.Split(line, ":")) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read %s: %w", file, err)
	}
	return nil
}
