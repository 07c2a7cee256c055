// SPDX-License-Identifier: Apache-2.0

// Package keeper owns the protocol between Peapod and its keeper, and the
// client's side of it. The keeper (program peapod-keeper) is one small process
// per node that is the parent of all container processes: it holds their
// stdio, writes their logs, and keeps how they ended, so that Peapod itself
// can be killed, upgraded and started again while nothing restarts and nothing
// is lost. The keeper knows neither Kubernetes, nor CRI, nor images: it is
// given a command line of an OCI runtime and a pid file.
//
// It lives in a folder of its own:
//
//	lock            held (flock) by the living keeper
//	sock            where it listens; only uid 0 is served
//	keeper.json     its pid, boot and epoch
//	keeper.log      what it has to say
//	run/<id>/       one folder per process it was asked to keep
//	  state.json    what was asked, pid, start ticks, how it ended
//	  stdin stdout stderr   FIFOs; see below
//	  held.stdout held.stderr   the beginning of a line not yet in the log
//	  pidfd         mount that keeps the kernel's memory of the exit status
//
// Kill -9 of the client: the keeper goes on; a new client lists and reads the
// exits since the number it saw last.
//
// Kill -9 of the keeper: the processes go on. Stdout and stderr are FIFOs that
// the process has open for reading and writing, so it gets no SIGPIPE, blocks
// at worst, and the next keeper goes on reading. Launch starts that keeper,
// which adopts what it finds by pidfd and start ticks. It answers at the same
// path, so each request names the keeper that is meant, and another refuses:
// a client of the dead one must not start or await anything here. An exit in the
// meantime is recovered from the pinned pidfd where the kernel keeps it
// (6.15); otherwise it is code 255 with Exit.Unknown saying why. What cannot
// be kept: a terminal (its processes get SIGHUP, as when a modem hangs up),
// the stdin of a process with StdinOnce (it reads end of file), the piece of
// output that the killed keeper had read and not yet logged (at most 32 KiB a
// stream), output that a process wrote and nobody had read when it ended with
// no keeper alive, and open Attach streams.
package keeper
