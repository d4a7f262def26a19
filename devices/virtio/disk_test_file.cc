// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_test_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

void Require(bool condition, const char* what) {
  if (condition) return;
  perror(what);
  std::abort();
}

}  // namespace

DiskTestFile::DiskTestFile(uint64_t size)
    : path_(absl::StrCat(::testing::TempDir(), "/disk-XXXXXX")) {
  fd_ = mkstemp(path_.data());
  Require(fd_ >= 0, path_.c_str());
  Resize(size);
}

DiskTestFile::DiskTestFile(const std::string& content)
    : DiskTestFile(content.size()) {
  Write(0, content);
}

DiskTestFile::~DiskTestFile() {
  unlink(path_.c_str());
  close(fd_);
}

std::shared_ptr<DiskFile> DiskTestFile::Open(bool read_only) const {
  auto file = DiskFile::Open({path_, read_only, false});
  if (!file.ok()) {
    fprintf(stderr, "%s\n", file.status().ToString().c_str());
    std::abort();
  }
  return *std::move(file);
}

std::string DiskTestFile::Read(uint64_t offset, uint64_t size) const {
  std::string bytes(size, '\0');
  const ssize_t got = pread(fd_, bytes.data(), size, offset);
  Require(got >= 0, "pread");
  bytes.resize(got);
  return bytes;
}

void DiskTestFile::Write(uint64_t offset, const std::string& bytes) const {
  Require(pwrite(fd_, bytes.data(), bytes.size(), offset) ==
              static_cast<ssize_t>(bytes.size()),
          "pwrite");
}

void DiskTestFile::Resize(uint64_t size) const {
  Require(ftruncate(fd_, size) == 0, "ftruncate");
}

uint64_t DiskTestFile::Allocated() const {
  struct stat now;
  Require(fstat(fd_, &now) == 0, "fstat");
  return now.st_blocks * uint64_t{512};
}

std::string DiskTestPattern(uint64_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() >> 56);
  return bytes;
}

}  // namespace cloister::devices::virtio
