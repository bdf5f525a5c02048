package seller

import "golang.org/x/sys/unix"

// disk returns how many bytes may be written to a directory's file system, and
// whether that is in memory.
func disk(dir string) (free uint64, inMemory bool) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 1 << 62, false // writing will tell
	}
	kind := uint32(st.Type)
	return st.Bavail * uint64(st.Bsize), kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC
}
