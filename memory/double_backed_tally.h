// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_DOUBLE_BACKED_TALLY_H_
#define CLOISTER_MEMORY_DOUBLE_BACKED_TALLY_H_

#include <cstdint>
#include <map>

#include "cloister/base/mutex.h"
#include "cloister/memory/guest_address.h"

namespace cloister::memory {

// What each part of RAM had backed on the wrong side when somebody last looked
// at it, and their sum. The parts are the steps of a look at RAM, always the
// same ones; those where nothing was found take no memory. Thread-safe.
// Internal to memory/.
class DoubleBackedTally {
 public:
  // `bytes` of `part`, in place of what was noted for it before.
  void Note(const GuestRange& part, uint64_t bytes);
  // The parts are others, or all was freed.
  void Clear();
  uint64_t bytes();

  // Where a look that stopped half-way is to go on; Clear keeps it.
  uint64_t position();
  void set_position(uint64_t address);

 private:
  base::Mutex mutex_;
  std::map<uint64_t, uint64_t> bytes_ ABSL_GUARDED_BY(mutex_);  // by start
  uint64_t total_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t position_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_DOUBLE_BACKED_TALLY_H_
