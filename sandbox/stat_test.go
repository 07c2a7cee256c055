// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"io/fs"
	"syscall"
)

func statIno(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }
