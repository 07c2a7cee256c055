// SPDX-License-Identifier: Apache-2.0

package keeper_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/peapod/peapod/keeper"
)

func TestFramesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"version": {"\x02\x00\x00\x00\x00\x00", "protocol version 2"},
		"kind":    {"\x01\x63\x00\x00\x00\x00", "kind 99"},
		"long":    {"\x01\x00\xff\xff\xff\xff", "of 4294967295 bytes"},
		"header":  {"\x01\x00", "unexpected EOF"},
		"payload": {"\x01\x00\x00\x00\x00\x05ab", "unexpected EOF"},
	} {
		_, _, err := keeper.ReadFrame(strings.NewReader(c.in), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, _, err := keeper.ReadFrame(strings.NewReader(""), nil); err != io.EOF {
		t.Errorf("clean end: %v", err)
	}
	if err := keeper.WriteFrame(io.Discard, keeper.Stdout, make([]byte, keeper.MaxFrame+1)); err == nil {
		t.Error("a frame that nobody would read was sent")
	}
}

// TestFaults: an error keeps its text and its identity over the socket.
func TestFaults(t *testing.T) {
	for _, want := range []error{keeper.ErrNotFound, keeper.ErrExists, keeper.ErrBusy, os.ErrProcessDone} {
		var b bytes.Buffer
		if err := keeper.WriteMessage(&b, keeper.Fail(want)); err != nil {
			t.Fatal(err)
		}
		var r keeper.Response
		if err := keeper.ReadMessage(&b, &r); err != nil {
			t.Fatal(err)
		}
		if err := r.Err(); !errors.Is(err, want) || err.Error() != want.Error() {
			t.Errorf("%v came as %v", want, err)
		}
	}
}

// FuzzReadFrame: whatever comes, a frame that is taken is one that would be
// written the same.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x01\x02\x00\x00\x00\x03abc\x01\x05\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x10\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var buf []byte
		for {
			before := len(in) - r.Len()
			kind, b, err := keeper.ReadFrame(r, buf)
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := keeper.WriteFrame(&again, kind, b); err != nil {
				t.Fatal(err)
			}
			if after := len(in) - r.Len(); !bytes.Equal(again.Bytes(), in[before:after]) {
				t.Fatalf("read %q, would write %q", in[before:after], again.Bytes())
			}
			buf = b[:cap(b)]
		}
	})
}

// FuzzReadMessage: requests come from whoever may open the socket.
func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x0d{\"op\":\"list\"}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var q keeper.Request
		if keeper.ReadMessage(bytes.NewReader(in), &q) != nil {
			return
		}
		if err := keeper.WriteMessage(io.Discard, q); err != nil {
			t.Fatal(err)
		}
	})
}
