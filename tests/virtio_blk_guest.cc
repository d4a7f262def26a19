// SPDX-License-Identifier: Apache-2.0
//
// What the block device's tests run inside a guest (and on the lab's host, to
// look at what a guest left), static, without libraries:
//
//   blk_guest fill FILE MIB SEED    writes MIB MiB that SEED determines; fsync
//   blk_guest check FILE MIB SEED   drops what is cached, reads it and compares
//   blk_guest try OP FILE OFFSET    one 4 KiB O_DIRECT read or write, or a
//                                   write and an fsync through the page cache;
//                                   prints "OP: done" or "OP: <errno's name>"
//   blk_guest records FILE          appends records for ever, each followed by
//                                   fsync; prints "record N" after it
//   blk_guest count FILE            prints "records: N", if FILE holds the
//                                   records 1 to N whole and in order
//   blk_guest discard FILE OFFSET LENGTH   BLKDISCARD
//   blk_guest zero FILE OFFSET LENGTH      BLKZEROOUT; fsync
//
// Exits with 0 if all was well (try: always).
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kBlock = 4096;
constexpr size_t kRecord = 1000;  // no divisor of a block

alignas(kBlock) uint8_t g_buffer[kMiB];
uint8_t g_wanted[kMiB];

[[noreturn]] void Die(const char* what) {
  printf("blk_guest: %s: %s\n", what, strerrorname_np(errno));
  exit(1);
}

uint64_t Next(uint64_t& state) {  // splitmix64
  state += 0x9e3779b97f4a7c15;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

void Pattern(uint8_t* to, size_t size, uint64_t seed, uint64_t index) {
  uint64_t state = seed * 0x100000001 + index;
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t value = Next(state);
    memcpy(to + i, &value, 8);
  }
}

void WriteAll(int fd, const uint8_t* from, size_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, from, size);
    if (n <= 0) Die("write");
    from += n;
    size -= n;
  }
}

// Fewer bytes than `size` at the end of the file.
size_t ReadAll(int fd, uint8_t* to, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(fd, to + done, size - done);
    if (n < 0) Die("read");
    if (n == 0) break;
    done += n;
  }
  return done;
}

int Open(const char* path, int flags) {
  const int fd = open(path, flags | O_CLOEXEC, 0644);
  if (fd < 0) Die(path);
  return fd;
}

int Fill(const char* path, uint64_t mib, uint64_t seed) {
  const int fd = Open(path, O_WRONLY | O_CREAT);
  for (uint64_t i = 0; i < mib; ++i) {
    Pattern(g_buffer, kMiB, seed, i);
    WriteAll(fd, g_buffer, kMiB);
  }
  if (fsync(fd) != 0) Die("fsync");
  printf("blk_guest: filled %lu MiB\n", static_cast<unsigned long>(mib));
  return 0;
}

int Check(const char* path, uint64_t mib, uint64_t seed) {
  const int fd = Open(path, O_RDONLY);
  // A device's cache, or a file's.
  if (ioctl(fd, BLKFLSBUF) != 0 &&
      posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) {
    Die("drop the cache");
  }
  for (uint64_t i = 0; i < mib; ++i) {
    Pattern(g_wanted, kMiB, seed, i);
    if (ReadAll(fd, g_buffer, kMiB) != kMiB ||
        memcmp(g_buffer, g_wanted, kMiB) != 0) {
      printf("blk_guest: MiB %lu differs\n", static_cast<unsigned long>(i));
      return 1;
    }
  }
  printf("blk_guest: checked %lu MiB\n", static_cast<unsigned long>(mib));
  return 0;
}

int Try(const char* op, const char* path, uint64_t offset) {
  const bool buffered = strcmp(op, "fsync") == 0;
  const bool reads = strcmp(op, "read") == 0;
  const int fd =
      Open(path, (reads ? O_RDONLY : O_WRONLY) | (buffered ? 0 : O_DIRECT));
  memset(g_buffer, 'x', kBlock);
  const ssize_t n = reads ? pread(fd, g_buffer, kBlock, offset)
                          : pwrite(fd, g_buffer, kBlock, offset);
  bool good = n == static_cast<ssize_t>(kBlock);
  if (!reads && good) good = fsync(fd) == 0;
  printf("%s: %s\n", op,
         good                   ? "done"
         : n >= 0 && errno == 0 ? "short"
                                : strerrorname_np(errno));
  return 0;
}

int Records(const char* path) {
  const int fd = Open(path, O_WRONLY | O_CREAT | O_APPEND);
  for (uint64_t number = 1;; ++number) {
    Pattern(g_buffer, kRecord, 77, number);
    memcpy(g_buffer, &number, sizeof(number));
    WriteAll(fd, g_buffer, kRecord);
    if (fsync(fd) != 0) Die("fsync");
    // One write: the console carries it whole or not at all.
    printf("record %lu\n", static_cast<unsigned long>(number));
    fflush(stdout);
  }
}

// A last record that is not whole was never synced: not an error.
int Count(const char* path) {
  const int fd = Open(path, O_RDONLY);
  uint64_t number = 0;
  while (ReadAll(fd, g_buffer, kRecord) == kRecord) {
    Pattern(g_wanted, kRecord, 77, number + 1);
    const uint64_t next = number + 1;
    memcpy(g_wanted, &next, sizeof(next));
    if (memcmp(g_buffer, g_wanted, kRecord) != 0) break;
    ++number;
  }
  printf("records: %lu\n", static_cast<unsigned long>(number));
  return 0;
}

int Discard(const char* path, uint64_t offset, uint64_t length) {
  uint64_t range[2] = {offset, length};
  if (ioctl(Open(path, O_WRONLY), BLKDISCARD, range) != 0) Die("BLKDISCARD");
  printf("blk_guest: discarded\n");
  return 0;
}

int Zero(const char* path, uint64_t offset, uint64_t length) {
  uint64_t range[2] = {offset, length};
  const int fd = Open(path, O_WRONLY);
  if (ioctl(fd, BLKZEROOUT, range) != 0) Die("BLKZEROOUT");
  if (fsync(fd) != 0) Die("fsync");
  printf("blk_guest: zeroed\n");
  return 0;
}

uint64_t Number(const char* text) { return strtoull(text, nullptr, 0); }

}  // namespace

int main(int argc, char** argv) {
  const char* command = argc > 1 ? argv[1] : "";
  auto is = [&](const char* name, int count) {
    return strcmp(command, name) == 0 && argc == count + 2;
  };
  if (is("fill", 3)) return Fill(argv[2], Number(argv[3]), Number(argv[4]));
  if (is("check", 3)) return Check(argv[2], Number(argv[3]), Number(argv[4]));
  if (is("try", 3)) return Try(argv[2], argv[3], Number(argv[4]));
  if (is("records", 1)) return Records(argv[2]);
  if (is("count", 1)) return Count(argv[2]);
  if (is("discard", 3)) {
    return Discard(argv[2], Number(argv[3]), Number(argv[4]));
  }
  if (is("zero", 3)) return Zero(argv[2], Number(argv[3]), Number(argv[4]));
  fprintf(stderr, "usage: see virtio_blk_guest.cc\n");
  return 2;
}
