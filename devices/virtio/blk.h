// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_BLK_H_
#define CLOISTER_DEVICES_VIRTIO_BLK_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/devices/virtio/blk_config.h"
#include "cloister/devices/virtio/blk_request.h"
#include "cloister/devices/virtio/blk_stats.h"
#include "cloister/devices/virtio/blk_task.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/disk_engine.h"
#include "cloister/devices/virtio/disk_file.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::devices::virtio {

// The block device (virtio 1.3, section 5.2) over a raw image.
//
// A flush that was acknowledged made durable every write acknowledged before
// it; without a write-back cache (the driver did not accept FLUSH, or switched
// it off) every write is durable when it is acknowledged, those included that
// were under way at the switch. What was acknowledged before it stays volatile
// until a flush (5.2.6.2); as Linux sends none from then on, the device begins
// one by itself. An error of the host's disk is an I/O error of the request it
// hit. Requests run many at a time; the lease of what the host still reads or
// writes lives exactly as long.
class Blk : public VirtioDevice,
            private DeviceRunner::Handler,
            private DiskEngine::Client {
 public:
  struct Options {
    std::string name = "blk0";
    DiskFileOptions file;
    std::string serial;  // at most 20 printable characters
    uint16_t queues = 1;
    uint16_t queue_size = 256;
    RateLimiterConfig limit;
    DiskEngineOptions engine;
    // Instead of the engine that `engine` names: for tests.
    DiskEngineFactory engine_factory;
    // Hears of the first disk error of each kind. Outlives the device.
    base::Logger* logger = &base::Logger::Null();
  };

  // Errors of DiskFile::Open; InvalidArgument for the other options.
  static absl::StatusOr<std::unique_ptr<Blk>> Create(
      Options options, std::unique_ptr<Worker> worker);
  // Waits for what the disk has in flight.
  ~Blk() override;

  absl::string_view name() const override { return options_.name; }
  uint32_t type() const override { return 2; }
  uint64_t features() const override { return features_; }
  absl::Span<const uint16_t> queue_sizes() const override {
    return queue_sizes_;
  }
  void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) override;
  void WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) override;
  void FeaturesAccepted(uint64_t features) override;
  absl::Status Activate(Activation activation) override;
  void Reset(std::function<void()> done) override;

  // The rest from any thread but the worker.

  // Puts another image in place, or, for the one that is there, takes its new
  // size: requests from then on go to it, and the driver hears of the new
  // capacity. Errors of DiskFile::Open, and FailedPrecondition for an image
  // that is not like the first one: read-only or not, or of larger blocks.
  absl::Status UpdateFile(const DiskFileOptions& file);
  absl::Status UpdateLimit(const RateLimiterUpdate& update);
  DiskFileOptions file() const;
  uint64_t size() const;  // bytes
  RateLimiterConfig limit() const { return limiter_->config(); }
  BlkCounters counters() const;
  // "io_uring" or "threads".
  absl::string_view engine() const { return engine_->name(); }

 private:
  using Next = DeviceRunner::Next;

  Blk(Options options, std::shared_ptr<DiskFile> file,
      std::unique_ptr<Worker> worker);

  // DeviceRunner::Handler
  absl::Status OnStart() override { return absl::OkStatus(); }
  void OnKick(uint16_t queue) override;
  void OnStop() override;
  // DiskEngine::Client
  void OnDiskOpDone(DiskOp* op, int error) override;
  void OnDiskOpsSettled() override;

  absl::StatusOr<Next> Serve(uint16_t index, Queue& queue, Chain chain);
  absl::StatusOr<Next> StartTask(uint16_t index, Queue& queue, Chain chain,
                                 const BlkRequest& request,
                                 std::vector<BlkSegment> segments);
  absl::Status Answer(Queue& queue, Chain chain, BlkStatus status);
  absl::Status AnswerId(Queue& queue, Chain chain);
  BlkLimits Limits() const;
  bool IsDurable() const;
  BlkTask* AddTask(std::unique_ptr<BlkTask> task);
  void RemoveTask(BlkTask* task);
  // Makes `task` its next operation; false if it needs no more.
  absl::StatusOr<bool> NextOp(BlkTask& task);
  void EndTask(BlkTask* task, int error);
  void Report(const BlkTask& task, int error);
  void Resume();
  void WhenIdle(std::function<void()> done);
  void RunIdle();
  void UseFile(std::shared_ptr<DiskFile> file);
  BlkTask* SubmitFlush();
  void FlushForWriteThrough();

  const Options options_;
  const uint64_t features_;
  const std::vector<uint16_t> queue_sizes_;
  BlkStats stats_;
  std::atomic<bool> writeback_{true};
  std::atomic<bool> flush_posted_{false};  // for the end of write-back

  // One UpdateFile at a time.
  base::Mutex update_mutex_;

  mutable base::Mutex mutex_;
  BlkConfig config_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<DiskFile> file_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> when_idle_ ABSL_GUARDED_BY(mutex_);

  std::atomic<uint64_t> in_flight_{0};

  // From here on the worker's. The order matters: the engine is destroyed
  // before what its operations need, and the runner, with the loop, last.
  DeviceRunner runner_;
  std::shared_ptr<DiskFile> current_;
  uint32_t block_ = 512;
  bool read_only_ = false;
  std::vector<std::unique_ptr<BlkTask>> tasks_;
  uint64_t dirty_ = 0;        // queues to signal: bits
  uint64_t waiting_ = 0;      // queues that the rate limiter holds up
  BlkTask* flush_ = nullptr;  // FlushForWriteThrough's, in flight
  bool flush_again_ = false;  // once that one is done
  std::unique_ptr<FlowLimiter> limiter_;
  std::unique_ptr<DiskEngine> engine_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_BLK_H_
