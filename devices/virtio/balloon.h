// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_BALLOON_H_
#define CLOISTER_DEVICES_VIRTIO_BALLOON_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/rate_limiter_timer.h"
#include "cloister/devices/virtio/balloon_pages.h"
#include "cloister/devices/virtio/counter.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/worker.h"
#include "cloister/memory/guest_address.h"

namespace cloister::devices::virtio {

// What the driver says about its guest's memory (virtio 1.3, section 5.5.6.4),
// by tag: bytes, except for faults and counts of allocations. Tags that the
// driver does not know are absent.
enum class BalloonStat : uint16_t {
  kSwapIn = 0,
  kSwapOut = 1,
  kMajorFaults = 2,
  kMinorFaults = 3,
  kFree = 4,
  kTotal = 5,
  kAvailable = 6,
  kCaches = 7,
  kHugeTlbAllocations = 8,
  kHugeTlbFailures = 9,
};
inline constexpr size_t kBalloonStatCount = 10;
using BalloonStats = std::array<std::optional<uint64_t>, kBalloonStatCount>;

// The memory balloon (virtio 1.3, section 5.5): inflate, deflate, statistics
// and free page reporting.
//
// The frame numbers and ranges of a driver only name pages of its own guest;
// BalloonPages decides what may become of them. Linux takes part only in guests
// that are not confidential (docs/networking.md).
class Balloon : public VirtioDevice, private DeviceRunner::Handler {
 public:
  // Frame numbers in one request of a driver (Linux: 256).
  static constexpr uint64_t kMaxFrames = 4096;

  struct Options {
    std::string name = "balloon0";
    uint64_t target = 0;  // bytes that the guest is to give up
    uint64_t max = 0;     // the most that may be asked for: the guest's RAM
    bool deflate_on_oom = false;
    bool reporting = false;                  // free page reporting
    std::chrono::seconds stats_interval{0};  // 0: never asks
  };
  struct Counters {
    uint64_t inflated_pages = 0;
    uint64_t deflated_pages = 0;
    uint64_t refused_pages = 0;  // named by the driver, and not its to give
    uint64_t reported_bytes = 0;
    uint64_t reports_ignored = 0;  // poisoned pages must keep their content
    uint64_t errors = 0;           // of the host
    uint64_t stats_updates = 0;
  };

  // `pages` outlives the device. InvalidArgument for a target above options.max
  // or not of whole pages, or a negative interval.
  static absl::StatusOr<std::unique_ptr<Balloon>> Create(
      Options options, BalloonPages& pages, std::unique_ptr<Worker> worker);
  ~Balloon() override { runner_.Shutdown(); }

  absl::string_view name() const override { return options_.name; }
  uint32_t type() const override { return 5; }
  uint64_t features() const override;
  absl::Span<const uint16_t> queue_sizes() const override;
  void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) override;
  void WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) override;
  absl::Status Activate(Activation activation) override {
    return runner_.Activate(std::move(activation));
  }
  void Reset(std::function<void()> done) override {
    runner_.Reset(std::move(done));
  }

  // Any thread.

  // Asks the guest for so much memory in the balloon. Errors as Create's.
  absl::Status SetTarget(uint64_t bytes);
  uint64_t target() const { return uint64_t{target_pages_} * 4096; }
  // What the guest says is in the balloon.
  uint64_t actual() const { return uint64_t{actual_pages_} * 4096; }
  absl::Status SetStatsInterval(std::chrono::seconds interval);
  std::chrono::seconds stats_interval() const { return interval_.load(); }
  // As the driver said last.
  BalloonStats stats() const;
  Counters counters() const;

 private:
  Balloon(Options options, BalloonPages& pages, std::unique_ptr<Worker> worker)
      : options_(std::move(options)),
        pages_(pages),
        runner_(std::move(worker), this) {}
  absl::Status CheckTarget(uint64_t bytes) const;

  absl::Status OnStart() override;
  void OnKick(uint16_t queue) override;
  void OnStop() override;

  absl::StatusOr<DeviceRunner::Next> TakeFrames(Queue& queue, Chain chain,
                                                uint16_t index);
  void TakeRange(const memory::GuestRange& range, uint16_t index);
  void RunReports(uint16_t index);
  absl::Status TakeReport(Queue& queue, uint16_t index);
  void DiscardRange(const memory::GuestRange& range);
  bool KeepsPoison() const;

  void RunStats();
  absl::Status TakeStats(Queue& queue);
  void OnStatsTimer();
  void ArmStatsTimer();

  const Options options_;
  BalloonPages& pages_;

  std::atomic<uint32_t> target_pages_{0};
  std::atomic<uint32_t> actual_pages_{0};
  std::atomic<uint32_t> poison_{0};
  std::atomic<std::chrono::seconds> interval_{std::chrono::seconds(0)};
  Counter inflated_, deflated_, refused_, reported_, ignored_, errors_,
      stats_updates_;
  mutable base::Mutex mutex_;
  BalloonStats stats_ ABSL_GUARDED_BY(mutex_);

  DeviceRunner runner_;
  std::unique_ptr<RateLimiterTimer> stats_timer_;
  bool stats_waiting_ = false;  // the driver's buffer is in the queue
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_BALLOON_H_
