// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/double_backed_tally.h"

namespace cloister::memory {

void DoubleBackedTally::Note(const GuestRange& part, uint64_t bytes) {
  base::MutexLock lock(&mutex_);
  auto found = bytes_.find(part.start().value());
  if (found != bytes_.end()) {
    total_ -= found->second;
    bytes_.erase(found);
  }
  total_ += bytes;
  if (bytes != 0) bytes_.emplace(part.start().value(), bytes);
}

void DoubleBackedTally::Clear() {
  base::MutexLock lock(&mutex_);
  bytes_.clear();
  total_ = 0;
}

uint64_t DoubleBackedTally::bytes() {
  base::MutexLock lock(&mutex_);
  return total_;
}

uint64_t DoubleBackedTally::position() {
  base::MutexLock lock(&mutex_);
  return position_;
}

void DoubleBackedTally::set_position(uint64_t address) {
  base::MutexLock lock(&mutex_);
  position_ = address;
}

}  // namespace cloister::memory
