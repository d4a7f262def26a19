// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_TEST_FILE_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_TEST_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "cloister/devices/virtio/disk_file.h"

namespace cloister::devices::virtio {

// A file of a test's own, gone with this object. Aborts on mistakes of the
// test.
class DiskTestFile {
 public:
  // `size` zeros.
  explicit DiskTestFile(uint64_t size);
  // With this content.
  explicit DiskTestFile(const std::string& content);
  DiskTestFile(const DiskTestFile&) = delete;
  DiskTestFile& operator=(const DiskTestFile&) = delete;
  ~DiskTestFile();

  const std::string& path() const { return path_; }
  // Opens it as a disk; aborts on errors.
  std::shared_ptr<DiskFile> Open(bool read_only = false) const;

  std::string Read(uint64_t offset, uint64_t size) const;
  void Write(uint64_t offset, const std::string& bytes) const;
  void Resize(uint64_t size) const;
  // Bytes of storage that it takes.
  uint64_t Allocated() const;

 private:
  std::string path_;
  int fd_;
};

// `size` bytes that differ from those of every other seed.
std::string DiskTestPattern(uint64_t size, uint64_t seed);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_TEST_FILE_H_
