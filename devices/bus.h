// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_BUS_H_
#define CLOISTER_DEVICES_BUS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"

namespace cloister::devices {

// Registers that a guest reaches by port I/O or MMIO.
//
// A device serialises itself: Read and Write come from any vCPU's thread, and
// several at once. The bus holds no lock while it calls. An access lies wholly
// within the range the device was inserted with; its width and alignment are
// the guest's choice, and the device must cope with all of them in bounded time
// and without blocking.
class BusDevice {
 public:
  virtual ~BusDevice() = default;

  // For messages: "serial0". Stays valid as long as the device.
  virtual absl::string_view name() const = 0;

  // Fills all of `data`, little-endian, from the registers at `offset`.
  virtual void Read(uint64_t offset, absl::Span<uint8_t> data) = 0;
  virtual void Write(uint64_t offset, absl::Span<const uint8_t> data) = 0;
};

// Finds the device behind an address. One object for ports, one for MMIO.
//
// Thread-safe. Devices may come, go and move while vCPUs run: an access works
// on the table it found when it began, so a device may see one more access
// while Remove runs and is kept alive until that ends. Read and Write hold a
// lock, one of several chosen by thread, only to take a reference to the table.
class Bus {
 public:
  enum class Space {
    kPio,   // 64 KiB of ports.
    kMmio,  // 64-bit guest-physical addresses.
  };
  struct Counters {
    uint64_t unknown_reads = 0;
    uint64_t unknown_writes = 0;
  };

  // Reports unknown addresses to `log`, which must outlive the bus.
  Bus(Space space, base::Logger& log);
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  // Gives [start, start + size) to `device`. InvalidArgument if the range is
  // empty, wraps or leaves the space; AlreadyExists, naming both devices, if it
  // overlaps another one. A device may have several ranges.
  absl::Status Insert(uint64_t start, uint64_t size,
                      std::shared_ptr<BusDevice> device);

  // Takes away the range that was inserted at `start`. NotFound if none was.
  absl::Status Remove(uint64_t start);

  // Moves the range at `start` to `new_start` in one step (a PCI BAR). On an
  // error, as of Insert or Remove, nothing has changed.
  absl::Status Move(uint64_t start, uint64_t new_start);

  // Performs a guest's access. Where no device is, or if it runs over the end
  // of its range, it reads all ones or is dropped, is counted, and its address
  // is logged the first time (for a limited number of addresses). True iff a
  // device got it.
  bool Read(uint64_t address, absl::Span<uint8_t> data);
  bool Write(uint64_t address, absl::Span<const uint8_t> data);

  Counters counters() const;

 private:
  struct Entry {
    uint64_t start;
    uint64_t last;
    std::shared_ptr<BusDevice> device;
  };
  using Table = std::vector<Entry>;  // Sorted by start, without overlaps.
  struct alignas(64) Stripe {
    base::Mutex mutex;
    std::shared_ptr<const Table> table ABSL_GUARDED_BY(mutex);
  };
  static constexpr size_t kStripes = 8;
  static constexpr size_t kMaxLogged = 128;

  absl::Status CheckRange(uint64_t start, uint64_t size) const;
  absl::Status AddTo(Table& table, Entry entry) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(writer_);
  void Publish(Table table) ABSL_EXCLUSIVE_LOCKS_REQUIRED(writer_);
  std::shared_ptr<const Table> Current();
  // The entry that holds all `size` > 0 bytes at `address`, or null.
  static const Entry* Find(const Table& table, uint64_t address, size_t size);
  void ReportUnknown(absl::string_view access, uint64_t address, size_t size);

  const Space space_;
  base::Logger& log_;
  std::array<Stripe, kStripes> stripes_;
  base::Mutex writer_;
  Table table_ ABSL_GUARDED_BY(writer_);

  std::atomic<uint64_t> unknown_reads_{0};
  std::atomic<uint64_t> unknown_writes_{0};
  base::Mutex logged_mutex_;
  std::set<uint64_t> logged_ ABSL_GUARDED_BY(logged_mutex_);
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_BUS_H_
