// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/lease_env.h"

#include <sys/mman.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::memory {

absl::StatusOr<ZeroPages> ZeroPages::Create(size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return base::ErrnoStatus(errno, absl::StrCat("mmap(", bytes, " bytes)"));
  }
  // Best effort: a huge page would back 512 times what is used.
  (void)::madvise(data, bytes, MADV_NOHUGEPAGE);
  return ZeroPages(data, bytes);
}

ZeroPages::~ZeroPages() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

void LeaseNotifier::Notify() {
  base::MutexLock lock(&mutex_);
  ++epoch_;
  changed_.SignalAll();
}

uint64_t LeaseNotifier::Epoch() {
  base::MutexLock lock(&mutex_);
  return epoch_;
}

bool LeaseNotifier::WaitPast(uint64_t epoch, Deadline deadline) {
  base::MutexLock lock(&mutex_);
  while (epoch_ == epoch) {
    if (!changed_.WaitUntil(&mutex_, deadline)) return epoch_ != epoch;
  }
  return true;
}

}  // namespace cloister::memory
