// SPDX-License-Identifier: Apache-2.0
//
// A hostile driver against the block device: requests that are nearly right,
// descriptors that are wrong, memory that becomes private, resets, a disk that
// fails and changes its size. Whatever it does the device must answer or need a
// reset, give back every lease, and leave private memory and the disk's size
// alone.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <future>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/bytes.h"
#include "cloister/base/log.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/devices/virtio/blk.h"
#include "cloister/devices/virtio/blk_request.h"
#include "cloister/devices/virtio/disk_fake_engine.h"
#include "cloister/devices/virtio/disk_file.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::devices::virtio {
namespace {

using memory::GuestAddress;
using memory::PageState;

constexpr uint64_t kDiskSize = 128 * 512;
constexpr int kPages = 8;  // for requests
constexpr uint64_t kPage = 4096;
constexpr uint8_t kMark = 0x5a;
constexpr std::chrono::milliseconds kLongRefill = std::chrono::hours(1);

void Require(bool condition, const char* what) {
  if (condition) return;
  std::cerr << what << std::endl;
  std::abort();
}

// The input, number by number; zeros at its end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(data, size) {}
  bool empty() const { return left_.empty(); }
  template <typename T>
  T Take() {
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof(T) && !left_.empty(); ++i) {
      value |= uint64_t{left_[0]} << (8 * i);
      left_.remove_prefix(1);
    }
    return static_cast<T>(value);
  }
  bool Flip() { return (Take<uint8_t>() & 1) != 0; }
  // 0 to `most`, at most 65535.
  uint32_t UpTo(uint32_t most) {
    return (most < 256 ? Take<uint8_t>() : Take<uint16_t>()) % (most + 1);
  }
  std::vector<uint8_t> Bytes(size_t size) {
    absl::Span<const uint8_t> part = left_.subspan(0, size);
    left_.remove_prefix(part.size());
    return std::vector<uint8_t>(part.begin(), part.end());
  }

 private:
  absl::Span<const uint8_t> left_;
};

// One disk for all inputs.
struct Disk {
  Disk() : fd(memfd_create("disk", MFD_CLOEXEC)) { Resize(kDiskSize); }
  void Resize(uint64_t size) { Require(ftruncate(fd, size) == 0, "resize"); }
  uint64_t size() const {
    struct stat now;
    Require(fstat(fd, &now) == 0, "fstat");
    return now.st_size;
  }
  std::string path() const { return absl::StrCat("/proc/self/fd/", fd); }
  const int fd;
};

// A transfer between the disk and memory that is not shared, which is out of
// the device's reach: the kernel says EFAULT, and the device logs it.
void FindFault(base::LogLevel, absl::string_view line) {
  Require(!absl::StrContains(line, "EFAULT"), "memory out of reach");
}

class Session {
 public:
  Session(Disk& disk, Input& data)
      : disk_(disk), data_(data), pages_(ram_.AllocPages(kPages)) {
    Blk::Options options;
    options.logger = &log_;
    options.file = {disk.path(), data.Flip(), data.Flip()};
    // Where memory has no O_DIRECT there is no such disk.
    options.file.direct =
        options.file.direct && DiskFile::Open(options.file).ok();
    options.queue_size = 8;
    options.serial = "fuzz";
    options.engine_factory = fault_.MakeFactory();
    FakeDriver::Options driver;
    driver.packed = data.Flip();
    driver.indirect = data.Flip();
    driver.event_idx = data.Flip();
    driver.features = data.Take<uint16_t>();
    auto worker = Worker::Create("fuzz");
    Require(worker.ok(), "worker");
    loop_ = &(*worker)->loop();
    auto blk = Blk::Create(std::move(options), *std::move(worker));
    Require(blk.ok(), "blk");
    blk_ = *std::move(blk);
    driver_ = std::make_unique<FakeDriver>(*blk_, ram_, driver);
    Require(driver_->Activate().ok(), "activate");
  }

  void Run() {
    for (int step = 0; step < 64 && !data_.empty(); ++step) {
      Step();
    }
    fault_.Release();
    Settle();
    Require(driver_->Reset(), "the reset is never done");
    Require(ram_.LeasedBytes() == 0, "leases leak");
    CheckPrivate();
    Require(disk_.size() == size_, "the disk changed its size");
    Require(blk_->counters().in_flight == 0, "operations leak");
  }

 private:
  void Step() {
    DriverFake& queue = driver_->queue(0);
    switch (data_.UpTo(10)) {
      case 0:
      case 1:
      case 2:
        OfferRequest(queue);
        break;
      case 3:
        queue.WriteDescriptor(data_.Take<uint8_t>() % queue.size(),
                              AnyAddress().value(), data_.Take<uint32_t>(),
                              data_.Take<uint16_t>(), data_.Take<uint8_t>());
        break;
      case 4:
        if (!queue.config().packed) {
          queue.OfferHead(data_.Take<uint8_t>());
        }
        break;
      case 5:
        if (!queue.config().packed) {
          queue.WriteAvailIndex(data_.Take<uint16_t>());
        }
        break;
      case 6:
        Settle();
        break;
      case 7:
        ChangePage();
        break;
      case 8:
        Restart();
        break;
      case 9:
        ChangeDisk();
        break;
      case 10:
        TouchConfig();
        break;
    }
  }

  void TouchConfig() {
    std::vector<uint8_t> bytes(data_.UpTo(70));
    const uint64_t offset =
        data_.Flip() ? data_.UpTo(70) : data_.Take<uint64_t>();
    blk_->ReadConfig(offset, absl::MakeSpan(bytes));
    blk_->WriteConfig(offset, data_.Bytes(bytes.size()));
  }

  // What follows the header: segments, for those types that have some.
  std::vector<uint8_t> Body(uint32_t type) {
    if (type != 11 && type != 13) return data_.Bytes(data_.Take<uint8_t>());
    std::vector<uint8_t> bytes(data_.UpTo(17) * kBlkSegmentSize);
    for (size_t i = 0; i < bytes.size(); i += kBlkSegmentSize) {
      base::StoreLe<uint64_t>(&bytes[i], data_.Take<uint8_t>());
      base::StoreLe<uint32_t>(&bytes[i + 8], data_.Take<uint8_t>());
      base::StoreLe<uint32_t>(&bytes[i + 12], data_.UpTo(7) / 3);
    }
    return bytes;
  }

  GuestAddress AnyAddress() {
    const uint32_t offset = data_.UpTo((kPages + 1) * kPage);
    if (data_.UpTo(15) == 0) {
      return GuestAddress(data_.Take<uint64_t>());
    }
    return *pages_.Plus(offset);
  }

  // A request with a proper header, mostly.
  void OfferRequest(DriverFake& queue) {
    static constexpr uint32_t kTypes[] = {0, 1, 4, 8, 11, 13, 2, 99};
    std::vector<uint8_t> header(16, 0);
    const uint32_t type = kTypes[data_.UpTo(std::size(kTypes) - 1)];
    base::StoreLe<uint32_t>(&header[0], type);
    base::StoreLe<uint64_t>(&header[8], data_.Flip() ? data_.Take<uint8_t>()
                                                     : data_.Take<uint64_t>());
    const std::vector<uint8_t> body = Body(type);
    header.insert(header.end(), body.begin(), body.end());
    const int page = data_.UpTo(kPages - 1);
    const GuestAddress at = *pages_.Plus(page * kPage);
    if (!private_[page]) ram_.Write(at, header);
    std::vector<DriverFake::Buffer> buffers;
    const uint32_t readable = data_.Flip() ? header.size() : data_.UpTo(9000);
    buffers.push_back({at, readable, false});
    if (data_.Flip()) {
      buffers.push_back({AnyAddress(), 512u * data_.UpTo(16), data_.Flip()});
    }
    if (data_.UpTo(7) != 0) {
      buffers.push_back({AnyAddress(), 1, true});
    }
    queue.Offer(buffers, data_.Flip());
    driver_->Kick(0);
  }

  // The device has seen everything so far.
  void Settle() {
    driver_->Kick(0);
    // A task may run in a turn that began before the kick; not a second one.
    for (int turn = 0; turn < 2; ++turn) {
      std::promise<void> done;
      loop_->Post([&done] { done.set_value(); });
      done.get_future().wait();
    }
  }

  void ChangePage() {
    const int page = data_.UpTo(kPages - 1);
    const GuestAddress at = *pages_.Plus(page * kPage);
    if (private_[page]) {
      CheckPrivate();
      ram_.SetState(at, kPage, PageState::kShared);
    } else {
      // What has a lease on it stays as it is: a conversion waits for that.
      fault_.Release();
      Settle();
      Require(driver_->Reset(), "the reset is never done");
      ram_.SetState(at, kPage, PageState::kPrivate);
      ram_.Write(at, std::vector<uint8_t>(kPage, kMark));
      Require(driver_->Activate().ok(), "activate");
    }
    private_[page] = !private_[page];
  }

  void CheckPrivate() {
    for (int page = 0; page < kPages; ++page) {
      if (!private_[page]) continue;
      const std::vector<uint8_t> bytes =
          ram_.Bytes(*pages_.Plus(page * kPage), kPage);
      for (uint8_t byte : bytes) Require(byte == kMark, "private memory");
    }
  }

  void Restart() {
    fault_.Release();
    Require(driver_->Reset(), "the reset is never done");
    Require(ram_.LeasedBytes() == 0, "leases leak");
    Require(driver_->Activate().ok(), "activate");
  }

  void ChangeDisk() {
    switch (data_.UpTo(5)) {
      case 0:
        fault_.Hold();
        break;
      case 1:
        fault_.Release();
        break;
      case 2:
        fault_.Fail(static_cast<DiskOp::Kind>(data_.UpTo(4)),
                    data_.Flip() ? EIO : 0);
        break;
      case 3:
        size_ = 512u * (1 + data_.UpTo(127));
        Settle();
        fault_.Release();
        Settle();
        disk_.Resize(size_);
        break;
      case 4:
        blk_->UpdateFile(blk_->file()).IgnoreError();
        break;
      case 5:
        blk_->UpdateLimit({std::nullopt,
                           TokenBucketConfig{data_.UpTo(3), 0, kLongRefill}})
            .IgnoreError();
        break;
    }
  }

  Disk& disk_;
  Input& data_;
  FakeRam ram_{1 << 20};
  const GuestAddress pages_;
  bool private_[kPages] = {};
  uint64_t size_ = kDiskSize;
  base::Logger log_{FindFault, base::LogLevel::kWarning};
  DiskFault fault_;
  base::EventLoop* loop_ = nullptr;
  std::unique_ptr<Blk> blk_;
  std::unique_ptr<FakeDriver> driver_;
};

}  // namespace
}  // namespace cloister::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  namespace virtio = cloister::devices::virtio;
  static virtio::Disk* const disk = new virtio::Disk;
  if (size > 4096) return 0;
  disk->Resize(virtio::kDiskSize);
  virtio::Input input(bytes, size);
  virtio::Session(*disk, input).Run();
  return 0;
}
