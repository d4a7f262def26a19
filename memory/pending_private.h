// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_PENDING_PRIVATE_H_
#define CLOISTER_MEMORY_PENDING_PRIVATE_H_

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "cloister/base/mutex.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/range_set.h"
#include "cloister/memory/shared_view.h"

namespace cloister::memory {

// The pages that turned private under a lease: the guest goes on, and the
// host's copy is freed once the last lease on them ends. That is noticed and
// done on a thread of this object; whoever ends a lease only wakes it.
// Thread-safe. Internal to memory/.
class PendingPrivate {
 public:
  // Called on the thread for pages that nobody leased a moment ago. It is to
  // get hold of the pages, ask Inside() what of them is still pending, look
  // once more that nobody leases it (it may have been shared and leased in
  // between), free that, and Remove() it, whether or not freeing worked.
  using FreeIdle = std::function<void(const GuestRange&)>;

  // `view` must outlive this object. `on_start` runs first on the thread.
  PendingPrivate(SharedView* view, FreeIdle free_idle,
                 std::function<void()> on_start = nullptr);
  // Waits for a call of FreeIdle that is under way.
  ~PendingPrivate();
  PendingPrivate(const PendingPrivate&) = delete;
  PendingPrivate& operator=(const PendingPrivate&) = delete;

  // Adds leased pages; the caller has hold of them and the map says private.
  void Add(const GuestRange& range);
  // Removes pages: freed, or shared again.
  void Remove(const GuestRange& range);

  // The parts of `range` that are pending, resp. are not.
  std::vector<GuestRange> Inside(const GuestRange& range);
  std::vector<GuestRange> Outside(const GuestRange& range);
  uint64_t bytes();

 private:
  void Run();
  // Waits for something to be pending; false once this object goes away.
  bool WaitForWork();
  bool Stopping();
  void FreeIdleParts();

  SharedView* const view_;
  const FreeIdle free_idle_;
  base::Mutex mutex_;
  base::CondVar changed_;
  RangeSet pending_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_PENDING_PRIVATE_H_
