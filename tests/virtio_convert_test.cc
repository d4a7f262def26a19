// SPDX-License-Identifier: Apache-2.0
//
// Conversions under devices: while a disk, a network interface and a socket
// move data that is checked, two vCPUs convert the pages between their buffers,
// and a buffer of a slow disk itself. Nothing is lost, the conversions meet
// leases, and no lease is left. Small by default; CLOISTER_SOAK=1 makes it
// long. And what a balloon takes of private memory is gone from its
// guest_memfd.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "cloister/base/bytes.h"
#include "cloister/base/event_fd.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/balloon.h"
#include "cloister/devices/virtio/blk.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/net.h"
#include "cloister/devices/virtio/net_mac.h"
#include "cloister/devices/virtio/queue.h"
#include "cloister/devices/virtio/tap.h"
#include "cloister/devices/virtio/vsock.h"
#include "cloister/devices/virtio/vsock_packet.h"
#include "cloister/devices/virtio/worker.h"
#include "cloister/tests/lab_settings.h"
#include "cloister/tests/microguest.h"
#include "cloister/tests/shell.h"
#include "cloister/vmm/balloon_memory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using devices::virtio::Activation;
using devices::virtio::Balloon;
using devices::virtio::Blk;
using devices::virtio::FakeInterrupts;
using devices::virtio::Net;
using devices::virtio::NetMac;
using devices::virtio::NetPort;
using devices::virtio::Queue;
using devices::virtio::QueueConfig;
using devices::virtio::Tap;
using devices::virtio::VirtioDevice;
using devices::virtio::Vsock;
using devices::virtio::VsockHeader;
using devices::virtio::VsockOp;
using devices::virtio::Worker;
using memory::BackingSide;
using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;
using memory::PageState;
using Op = Microguest::Op;

constexpr uint64_t kMiB = 1 << 20;
// Every other page is a buffer or a ring; a vCPU converts those between.
constexpr uint64_t kData = 4 * kMiB;
constexpr uint64_t kPairs = 64;
constexpr uint64_t BufferPage(uint64_t index) {
  return kData + 2 * index * kPageSize;
}
constexpr uint64_t kVictim = 8 * kMiB;  // a page that toggles

constexpr uint64_t kDiskPages = 8;  // of each request
constexpr uint64_t kWritePage = 0, kReadPage = 8, kTxPage = 16, kRxPage = 17;
constexpr uint64_t kSocketTxPage = 18, kSocketRxPage = 19;
constexpr uint64_t kDiskRing = 20, kTxRing = 21, kRxRing = 22, kSlowRing = 23;
constexpr uint64_t kSocketRings = 24, kBalloonRings = 27;  // three and five

uint64_t Rounds() { return Soak() ? 5000 : 48; }
uint64_t Meetings() { return Soak() ? 200 : 3; }

struct Buffer {
  uint64_t address = 0;
  uint32_t size = 0;
  bool writable = false;
};

// A split ring in one shared page, with one request at a time: what a guest's
// driver writes there, by the guest's own memory.
class Ring {
 public:
  static constexpr uint16_t kSize = 16;
  // For the driver's own use, in the same page.
  static constexpr uint64_t kHeader = 0xc00;

  Ring(memory::GuestMemory& memory, uint64_t page)
      : memory_(memory), page_(page) {}

  QueueConfig Start() {
    const std::vector<uint8_t> zeroes(kPageSize);
    EXPECT_OK(memory_.Write(GuestAddress(page_), zeroes));
    available_ = used_ = 0;
    QueueConfig config;
    config.size = kSize;
    config.desc = GuestAddress(page_);
    config.driver = GuestAddress(page_ + kAvailable);
    config.device = GuestAddress(page_ + kUsed);
    return config;
  }

  void Offer(absl::Span<const Buffer> buffers) {
    for (size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      std::array<uint8_t, 16> descriptor = {};
      base::StoreLe<uint64_t>(descriptor.data(), buffers[i].address);
      base::StoreLe<uint32_t>(&descriptor[8], buffers[i].size);
      base::StoreLe<uint16_t>(&descriptor[12],
                              (last ? 0 : 1) | (buffers[i].writable ? 2 : 0));
      base::StoreLe<uint16_t>(&descriptor[14], static_cast<uint16_t>(i + 1));
      EXPECT_OK(memory_.Write(GuestAddress(page_ + 16 * i), descriptor));
    }
    // Its head is descriptor 0, as the entries are already.
    EXPECT_OK(memory_.Store<uint16_t>(GuestAddress(page_ + kAvailable + 2),
                                      ++available_, std::memory_order_seq_cst));
  }
  bool TakeUsed() {
    auto index = memory_.Load<uint16_t>(GuestAddress(page_ + kUsed + 2),
                                        std::memory_order_seq_cst);
    if (!index.ok() || *index == used_) return false;
    ++used_;
    return true;
  }

  uint64_t header() const { return page_ + kHeader; }

 private:
  static constexpr uint64_t kAvailable = 0x400, kUsed = 0x800;
  memory::GuestMemory& memory_;
  const uint64_t page_;
  uint16_t available_ = 0;
  uint16_t used_ = 0;
};

// A device with its driver.
class Driven {
 public:
  Driven(Microguest& guest, VirtioDevice* device,
         const std::vector<uint64_t>& pages, uint64_t features = 0)
      : guest_(guest), device_(device), features_(features) {
    for (uint64_t page : pages) {
      rings_.emplace_back(guest.memory(), BufferPage(page));
      auto kick = base::EventFd::Create();
      EXPECT_OK(kick);
      kicks_.push_back(*std::move(kick));
    }
  }

  absl::Status Activate() {
    interrupts_.push_back(std::make_unique<FakeInterrupts>());
    Activation activation;
    activation.features = uint64_t{1} << 32 | features_;
    device_->FeaturesAccepted(activation.features);
    activation.interrupts = interrupts_.back().get();
    for (size_t i = 0; i < rings_.size(); ++i) {
      ASSIGN_OR_RETURN(auto queue,
                       Queue::Create(rings_[i].Start(), guest_.view()));
      activation.queues.push_back({.index = static_cast<uint16_t>(i),
                                   .queue = std::move(queue),
                                   .kick = &kicks_[i]});
    }
    signals_.assign(rings_.size(), 0);
    return device_->Activate(std::move(activation));
  }
  // Returns when nothing of the activation is used any more.
  void Reset() {
    auto done = std::make_shared<std::promise<void>>();
    std::future<void> ended = done->get_future();
    device_->Reset([done] { done->set_value(); });
    ended.wait();
  }

  void Offer(size_t queue, absl::Span<const Buffer> buffers) {
    rings_[queue].Offer(buffers);
    kicks_[queue].Signal();
  }
  // False if the device gave up its driver instead.
  bool Finish(size_t queue) {
    FakeInterrupts& interrupts = *interrupts_.back();
    for (;;) {
      if (rings_[queue].TakeUsed()) return true;
      if (interrupts.reset_reason().has_value()) return false;
      // Ends early when it has waited for long: then look again.
      if (interrupts.WaitForQueue(static_cast<uint16_t>(queue),
                                  signals_[queue] + 1)) {
        ++signals_[queue];
      }
    }
  }
  Ring& ring(size_t queue) { return rings_[queue]; }

 private:
  Microguest& guest_;
  VirtioDevice* const device_;
  const uint64_t features_;
  std::vector<Ring> rings_;
  std::vector<base::EventFd> kicks_;
  std::vector<std::unique_ptr<FakeInterrupts>> interrupts_;
  std::vector<uint64_t> signals_;
};

// Reads or writes sectors; the status, or 255 if the device gave up.
uint8_t DiskRequest(Microguest& guest, Driven& disk, uint32_t type,
                    uint64_t sector, absl::Span<const Buffer> data) {
  std::array<uint8_t, 17> header = {};
  base::StoreLe<uint32_t>(header.data(), type);
  base::StoreLe<uint64_t>(&header[8], sector);
  header[16] = 0xee;
  const uint64_t at = disk.ring(0).header();
  EXPECT_OK(guest.memory().Write(GuestAddress(at), header));
  std::vector<Buffer> buffers = {{at, 16, false}};
  buffers.insert(buffers.end(), data.begin(), data.end());
  buffers.push_back({at + 16, 1, true});
  disk.Offer(0, buffers);
  if (!disk.Finish(0)) return 255;
  uint8_t status = 0;
  EXPECT_OK(
      guest.memory().Read(GuestAddress(at + 16), absl::MakeSpan(&status, 1)));
  return status;
}

std::vector<Buffer> DiskBuffers(uint64_t first, bool writable) {
  std::vector<Buffer> buffers;
  for (uint64_t i = 0; i < kDiskPages; ++i) {
    buffers.push_back({BufferPage(first + i), kPageSize, writable});
  }
  return buffers;
}

// What page `page` of request `round` holds: words from here on, by kStep.
constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
constexpr uint64_t FirstWord(uint64_t round, uint64_t page) {
  return (round + 1) * 0xd1342543de82ef95 + page * 0xaf251af3b0f025b5;
}
constexpr uint64_t kWords = kPageSize / 8;
constexpr uint64_t kStreamWords = 150;  // through a socket at a time

// A folder in memory with the images, and what is made of them.
class Host {
 public:
  Host() {
    folder_ = absl::StrCat("/run/convert-", getpid());
    Sh(absl::StrCat("mkdir ", folder_, "; mount -t tmpfs none ", folder_,
                    "; truncate -s 256M ", disk(), "; truncate -s 1M ", folder_,
                    "/slow; ip tuntap add dev ", tap(),
                    " mode tap; ip link set ", tap(), " up"));
    loop_ = Sh(absl::StrCat("losetup -f --show ", folder_, "/slow"));
    // Each request takes longer than a conversion waits for leases.
    Sh(absl::StrCat("echo 0 2048 delay ", loop_,
                    " 0 60 | dmsetup create --noudevsync ", slow_name(),
                    "; dmsetup mknodes"));
  }
  ~Host() {
    Sh(absl::StrCat("dmsetup remove --noudevsync --retry ", slow_name(),
                    "; losetup -d ", loop_, "; ip link del ", tap(),
                    "; umount ", folder_, "; rmdir ", folder_));
  }
  std::string disk() const { return folder_ + "/disk"; }
  std::string slow() const { return "/dev/mapper/" + slow_name(); }
  std::string sockets() const { return folder_ + "/v"; }
  static std::string tap() { return absl::StrCat("conv", getpid()); }

 private:
  static std::string slow_name() { return absl::StrCat("conv-", getpid()); }
  std::string folder_, loop_;
};

constexpr uint16_t kEthertype = 0x88b5;  // for local experiments

// Sends back whatever comes over an interface, until it is told to stop.
class Mirror {
 public:
  explicit Mirror(const std::string& interface) {
    socket_ = base::UniqueFd(
        ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kEthertype)));
    EXPECT_TRUE(socket_.valid()) << "needs root";
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kEthertype);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address),
                     sizeof(address)),
              0);
    auto stop = base::EventFd::Create();
    EXPECT_OK(stop);
    stop_ = std::make_unique<base::EventFd>(*std::move(stop));
    thread_ = std::thread([this] { Run(); });
  }
  ~Mirror() {
    stop_->Signal();
    thread_.join();
  }

 private:
  void Run() {
    std::array<char, 2048> frame;
    for (;;) {
      std::array<pollfd, 2> fds = {
          {{socket_.get(), POLLIN, 0}, {stop_->fd(), POLLIN, 0}}};
      if (::poll(fds.data(), fds.size(), -1) < 0) continue;
      if (fds[1].revents != 0) return;
      const ssize_t size = ::recv(socket_.get(), frame.data(), frame.size(), 0);
      if (size > 0) ::send(socket_.get(), frame.data(), size, 0);
    }
  }

  base::UniqueFd socket_;
  std::unique_ptr<base::EventFd> stop_;
  std::thread thread_;
};

// The guest's end of a socket, by the device's rings, and the host's, which
// sends back whatever comes.
class Echo {
 public:
  static constexpr uint64_t kPayload = VsockHeader::kSize;
  static constexpr uint32_t kGuestCid = 5, kGuestPort = 1000, kHostPort = 77;

  Echo(Microguest& guest, Driven& device, const std::string& sockets)
      : guest_(guest), device_(device) {
    listener_ =
        base::UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path_ = absl::StrCat(sockets, "_", kHostPort);
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address),
                     sizeof(address)),
              0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    thread_ = std::thread([this] { Run(); });
  }
  ~Echo() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    ::shutdown(connection_, SHUT_RDWR);
    thread_.join();
    base::UniqueFd(connection_).reset();
    ::unlink(path_.c_str());
  }

  void Connect() {
    device_.Offer(0, {{BufferPage(kSocketRxPage), kPageSize, true}});
    Send(VsockOp::kRequest, 0);
    ASSERT_TRUE(device_.Finish(0));
    EXPECT_EQ(Header().op, VsockOp::kResponse);
    device_.Offer(0, {{BufferPage(kSocketRxPage), kPageSize, true}});
  }
  // What the guest has put behind the header.
  void Send(VsockOp op, uint32_t length) {
    VsockHeader header;
    header.src_cid = kGuestCid;
    header.dst_cid = devices::virtio::kVsockHostCid;
    header.src_port = kGuestPort;
    header.dst_port = kHostPort;
    header.op = op;
    header.len = length;
    header.buf_alloc = 1 << 20;
    header.fwd_cnt = received_;
    const uint64_t page = BufferPage(kSocketTxPage);
    ASSERT_OK(guest_.memory().Write(GuestAddress(page), header.Serialize()));
    device_.Offer(1, {{page, static_cast<uint32_t>(kPayload) + length, false}});
    ASSERT_TRUE(device_.Finish(1));
  }
  // The next `size` bytes of the stream.
  std::vector<uint8_t> Receive(size_t size) {
    std::vector<uint8_t> all;
    while (all.size() < size && device_.Finish(0)) {
      const VsockHeader header = Header();
      const bool data = header.op == VsockOp::kReadWrite;
      EXPECT_TRUE(data || header.op == VsockOp::kCreditUpdate);
      std::vector<uint8_t> part(data ? header.len : 0);
      EXPECT_OK(guest_.memory().Read(
          GuestAddress(BufferPage(kSocketRxPage) + kPayload),
          absl::MakeSpan(part)));
      all.insert(all.end(), part.begin(), part.end());
      received_ += static_cast<uint32_t>(part.size());
      device_.Offer(0, {{BufferPage(kSocketRxPage), kPageSize, true}});
    }
    return all;
  }

 private:
  VsockHeader Header() {
    std::array<uint8_t, VsockHeader::kSize> bytes = {};
    EXPECT_OK(guest_.memory().Read(GuestAddress(BufferPage(kSocketRxPage)),
                                   absl::MakeSpan(bytes)));
    return VsockHeader::Parse(bytes);
  }
  void Run() {
    const int client = ::accept(listener_.get(), nullptr, nullptr);
    connection_ = client;
    std::array<char, 4096> bytes;
    for (;;) {
      const ssize_t size = ::recv(client, bytes.data(), bytes.size(), 0);
      if (size <= 0) return;
      for (ssize_t sent = 0; sent < size;) {
        const ssize_t now =
            ::send(client, &bytes[sent], size - sent, MSG_NOSIGNAL);
        if (now <= 0) return;
        sent += now;
      }
    }
  }

  Microguest& guest_;
  Driven& device_;
  std::string path_;
  base::UniqueFd listener_;
  std::atomic<int> connection_{-1};
  std::thread thread_;
  uint32_t received_ = 0;
};

class VirtioConvertTest : public ::testing::Test {
 protected:
  void SetUp() override {
    MicroguestOptions options;
    options.cpus = 3;
    auto guest = Microguest::Create(options);
    ASSERT_OK(guest);
    guest_ = *std::move(guest);
    for (uint64_t i = 0; i < kPairs; ++i) {
      ASSERT_THAT(guest_->Convert(BufferPage(i), 1, 0), IsOkAndHolds(0u));
    }
  }

  // A slow disk is one only past the host's page cache: `direct`.
  std::unique_ptr<Blk> MakeDisk(const std::string& path, bool direct) {
    Blk::Options options;
    options.file.path = path;
    options.file.direct = direct;
    auto worker = Worker::Create("blk", nullptr);
    EXPECT_OK(worker);
    auto disk = Blk::Create(std::move(options), *std::move(worker));
    EXPECT_OK(disk);
    return disk.ok() ? *std::move(disk) : nullptr;
  }
  std::unique_ptr<Net> MakeNet() {
    auto taps = Tap::Open(Host::tap(), 1);
    EXPECT_OK(taps);
    if (!taps.ok()) return nullptr;
    std::vector<std::unique_ptr<NetPort>> ports;
    ports.push_back(std::move((*taps)[0]));
    auto worker = Worker::Create("net", nullptr);
    EXPECT_OK(worker);
    auto net = Net::Create({.name = "net",
                            .mac = *NetMac::Parse("02:00:00:00:00:01"),
                            .rx_limit = {},
                            .tx_limit = {}},
                           std::move(ports), *std::move(worker));
    EXPECT_OK(net);
    return net.ok() ? *std::move(net) : nullptr;
  }

  std::unique_ptr<Vsock> MakeVsock(const std::string& path) {
    Vsock::Options options;
    options.cid = Echo::kGuestCid;
    options.path = path;
    auto worker = Worker::Create("vsock", nullptr);
    EXPECT_OK(worker);
    auto vsock = Vsock::Create(std::move(options), *std::move(worker));
    EXPECT_OK(vsock);
    return vsock.ok() ? *std::move(vsock) : nullptr;
  }

  // The guest's processor fills a page of shared memory, and looks at it.
  void Fill(uint64_t address, uint64_t first, uint64_t words) {
    ASSERT_OK(guest_->Run(0, {.op = Op::kWrite,
                              .address = Microguest::SharedVa(address),
                              .count = words,
                              .value = first,
                              .stride = 8,
                              .delta = kStep}));
  }
  void Check(uint64_t address, uint64_t first, uint64_t words) {
    auto seen = guest_->Run(0, {.op = Op::kCheck,
                                .address = Microguest::SharedVa(address),
                                .count = words,
                                .value = first,
                                .stride = 8,
                                .delta = kStep});
    ASSERT_OK(seen);
    EXPECT_EQ(seen->result, words) << "lost at " << std::hex << address;
  }

  // Writes a piece of the disk and reads it elsewhere.
  void MoveDiskData(Driven& disk, uint64_t round) {
    const uint64_t sector = round * kDiskPages * 8;
    for (uint64_t i = 0; i < kDiskPages; ++i) {
      Fill(BufferPage(kWritePage + i), FirstWord(round, i), kWords);
    }
    ASSERT_EQ(DiskRequest(*guest_, disk, 1, sector,
                          DiskBuffers(kWritePage, /*writable=*/false)),
              0);
    ASSERT_EQ(DiskRequest(*guest_, disk, 0, sector,
                          DiskBuffers(kReadPage, /*writable=*/true)),
              0);
    for (uint64_t i = 0; i < kDiskPages; ++i) {
      Check(BufferPage(kReadPage + i), FirstWord(round, i), kWords);
    }
  }

  // Sends a frame, and takes it back from the host.
  void MoveFrame(Driven& net, uint64_t round) {
    constexpr uint32_t kPayload = 32;  // after virtio's header and Ethernet's
    constexpr uint64_t kPayloadWords = 150;
    constexpr uint32_t kFrame = kPayload + 8 * kPayloadWords;
    const uint64_t tx = BufferPage(kTxPage), rx = BufferPage(kRxPage);
    std::array<uint8_t, kPayload> header = {};
    std::fill(&header[12], &header[18], 0xff);
    header[18] = 0x02;
    header[24] = kEthertype >> 8;
    header[25] = kEthertype & 0xff;
    ASSERT_OK(guest_->memory().Write(GuestAddress(tx), header));
    Fill(tx + kPayload, FirstWord(round, kDiskPages), kPayloadWords);
    net.Offer(0, {{rx, kPageSize, true}});
    net.Offer(1, {{tx, kFrame, false}});
    ASSERT_TRUE(net.Finish(1));
    for (;;) {
      ASSERT_TRUE(net.Finish(0));
      std::array<uint8_t, 2> type = {};
      ASSERT_OK(
          guest_->memory().Read(GuestAddress(rx + 24), absl::MakeSpan(type)));
      if (type[0] == header[24] && type[1] == header[25]) break;
      net.Offer(0, {{rx, kPageSize, true}});  // the host's own
    }
    Check(rx + kPayload, FirstWord(round, kDiskPages), kPayloadWords);
  }

  // Sends bytes through a socket, and takes them back from the host.
  void MoveStream(Echo& echo, uint64_t round) {
    Fill(BufferPage(kSocketTxPage) + Echo::kPayload,
         FirstWord(round, kDiskPages + 1), kStreamWords);
    ASSERT_NO_FATAL_FAILURE(echo.Send(VsockOp::kReadWrite, 8 * kStreamWords));
    const std::vector<uint8_t> back = echo.Receive(8 * kStreamWords);
    ASSERT_EQ(back.size(), 8 * kStreamWords);
    for (uint64_t i = 0; i < kStreamWords; ++i) {
      ASSERT_EQ(base::LoadLe<uint64_t>(&back[8 * i]),
                FirstWord(round, kDiskPages + 1) + i * kStep);
    }
  }

  uint64_t Backed(BackingSide side, uint64_t page, uint64_t pages) {
    uint64_t bytes = 0;
    EXPECT_OK(guest_->backend().ForEachBacked(
        side, *GuestRange::Create(GuestAddress(page), pages * kPageSize),
        [&](const GuestRange& part) { bytes += part.size(); }));
    return bytes / kPageSize;
  }

  // What reached the file.
  void CheckFile(const std::string& path) {
    base::UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(file.valid());
    std::vector<uint64_t> words(kWords);
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < Rounds() * kDiskPages; ++page) {
      ASSERT_EQ(::pread(file.get(), words.data(), kPageSize,
                        static_cast<off_t>(page * kPageSize)),
                static_cast<ssize_t>(kPageSize));
      const uint64_t first = FirstWord(page / kDiskPages, page % kDiskPages);
      for (uint64_t i = 0; i < kWords; ++i) {
        wrong += words[i] == first + i * kStep ? 0 : 1;
      }
    }
    EXPECT_EQ(wrong, 0u);
  }

  // vCPU 1 converts the pages between the buffers at random, and knows what it
  // has put there; vCPU 2 converts the slow disk's buffer to and fro.
  void BeginConverting() {
    guest_->Begin(1, {.op = Op::kRandom,
                      .address = kData + kPageSize,
                      .count = kPairs,
                      .value = Microguest::kRecords,
                      .stride = 2 * kPageSize,
                      .delta = 0,
                      .seed = 77});
    guest_->Begin(2, {.op = Op::kToggle, .address = kVictim, .count = 1});
  }
  void EndConverting() {
    guest_->Stop(1);
    guest_->Stop(2);
    ASSERT_OK_AND_ASSIGN(auto random, guest_->Wait(1));
    ASSERT_OK_AND_ASSIGN(auto toggle, guest_->Wait(2));
    EXPECT_EQ(random.result | toggle.result, 0u) << "a request failed";
    EXPECT_EQ(random.seen, 0u) << "private content was lost, or shared kept";
    EXPECT_GT(random.progress, Rounds());
    EXPECT_GT(toggle.progress, Meetings());
    std::cout << random.progress + toggle.progress << " conversions\n";
    for (uint64_t i = 0; i < kPairs; ++i) {
      uint8_t record = 0;
      ASSERT_OK(guest_->memory().Read(GuestAddress(Microguest::kRecords + i),
                                      absl::MakeSpan(&record, 1)));
      EXPECT_EQ(guest_->states().Get(GuestAddress(BufferPage(i) + kPageSize)),
                record == 1 ? PageState::kShared : PageState::kPrivate);
    }
  }

  std::unique_ptr<Microguest> guest_;
};

TEST_F(VirtioConvertTest, TrafficAndRandomConversionsLeaveEachOtherAlone) {
  Host host;
  Mirror mirror(Host::tap());
  auto disk = MakeDisk(host.disk(), /*direct=*/false);
  auto slow = MakeDisk(host.slow(), /*direct=*/true);
  auto net = MakeNet();
  auto vsock = MakeVsock(host.sockets());
  ASSERT_TRUE(disk && slow && net && vsock);
  Driven disk_driver(*guest_, disk.get(), {kDiskRing});
  Driven net_driver(*guest_, net.get(), {kRxRing, kTxRing});
  Driven slow_driver(*guest_, slow.get(), {kSlowRing});
  ASSERT_OK(disk_driver.Activate());
  ASSERT_OK(net_driver.Activate());
  ASSERT_OK(slow_driver.Activate());
  Driven vsock_driver(*guest_, vsock.get(),
                      {kSocketRings, kSocketRings + 1, kSocketRings + 2});
  Echo echo(*guest_, vsock_driver, host.sockets());
  ASSERT_OK(vsock_driver.Activate());
  echo.Connect();
  BeginConverting();

  // Reads into a page that is converted under it, until enough of those reads
  // were under way at the time. A page that is private just then is a driver's
  // mistake: the device wants to be reset, and works again.
  std::atomic<bool> moved{false};
  uint64_t reads = 0, resets = 0;
  std::thread victim([&] {
    while (!moved || guest_->broker().stats().pending_private < Meetings()) {
      const uint8_t status =
          DiskRequest(*guest_, slow_driver, 0, 0, {{kVictim, kPageSize, true}});
      if (status == 0) {
        ++reads;
        continue;
      }
      EXPECT_EQ(status, 255);
      slow_driver.Reset();
      ++resets;
      EXPECT_OK(slow_driver.Activate());
    }
  });
  for (uint64_t round = 0; round < Rounds() && !HasFatalFailure(); ++round) {
    MoveDiskData(disk_driver, round);
    MoveFrame(net_driver, round);
    MoveStream(echo, round);
  }
  moved = true;
  victim.join();
  EndConverting();
  disk_driver.Reset();
  net_driver.Reset();
  slow_driver.Reset();
  vsock_driver.Reset();

  const memory::ConversionStats stats = guest_->broker().stats();
  std::cout << Rounds() * kDiskPages * 4 << " KiB to the disk and back, "
            << Rounds() << " frames, " << vsock->counters().tx_bytes.value()
            << " bytes through a socket; " << reads << " slow reads, " << resets
            << " resets, " << stats.pending_private
            << " conversions met a lease for longer than they wait\n";
  EXPECT_GE(stats.pending_private, Meetings());
  EXPECT_GT(reads, 0u);
  EXPECT_EQ(guest_->view().LeasedBytes(), 0u);
  EXPECT_EQ(stats.failed, 0u);
  // What was pending is freed by a thread of the broker's.
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (guest_->broker().stats().pending_private_bytes != 0 &&
         std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
  }
  EXPECT_EQ(guest_->broker().stats().pending_private_bytes, 0u);
  EXPECT_EQ(guest_->broker().stats().leftover_bytes, 0u);
  CheckFile(host.disk());
  EXPECT_EQ(net->counters().tx_packets.value(), Rounds());
  EXPECT_EQ(net->counters().tx_dropped_tap.value(), 0u);
  EXPECT_EQ(vsock->counters().tx_bytes.value(), Rounds() * 8 * kStreamWords);
  EXPECT_EQ(vsock->counters().rx_bytes.value(), Rounds() * 8 * kStreamWords);
}

// A driver that accepts ACCESS_PLATFORM and names private pages, which Linux's
// does not (docs/networking.md). What backs them is counted in the guest_memfd
// itself, by mincore: its st_blocks is always 0.
TEST_F(VirtioConvertTest, ABalloonFreesPrivatePagesForReal) {
  constexpr uint64_t kFirst = 10 * kMiB, kPages = 64, kValue = 500;
  constexpr uint16_t kInflate = 0, kDeflate = 1, kReports = 4;
  auto page = [](uint64_t index) { return kFirst + index * kPageSize; };
  vmm::BalloonMemory memory(&guest_->states(), &guest_->backend(),
                            &guest_->broker());
  Balloon::Options options;
  options.max = 16 * kMiB;
  options.reporting = true;
  ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("balloon", nullptr));
  ASSERT_OK_AND_ASSIGN(auto balloon,
                       Balloon::Create(options, memory, std::move(worker)));
  Driven driver(*guest_, balloon.get(),
                {kBalloonRings, kBalloonRings + 1, kBalloonRings + 2,
                 kBalloonRings + 3, kBalloonRings + 4},
                /*features=*/1 << 5);
  ASSERT_OK(driver.Activate());
  ASSERT_OK(guest_->FillPages(kFirst, kPages, kValue));
  ASSERT_THAT(guest_->Convert(page(50), 1, 0), IsOkAndHolds(0u));
  ASSERT_OK(guest_->FillPages(Microguest::SharedVa(page(50)), 1, kValue));
  ASSERT_EQ(Backed(BackingSide::kPrivate, kFirst, kPages), kPages - 1);
  ASSERT_EQ(Backed(BackingSide::kShared, kFirst, kPages), 1u);

  // Free page reporting: 16 private pages, then 4 of which one is shared.
  driver.Offer(kReports, {{page(16), 16 * kPageSize, true}});
  ASSERT_TRUE(driver.Finish(kReports));
  EXPECT_EQ(Backed(BackingSide::kPrivate, page(16), 16), 0u);
  EXPECT_EQ(Backed(BackingSide::kPrivate, kFirst, kPages), kPages - 17);
  driver.Offer(kReports, {{page(48), 4 * kPageSize, true}});
  ASSERT_TRUE(driver.Finish(kReports));
  EXPECT_EQ(Backed(BackingSide::kPrivate, page(48), 4), 0u);
  EXPECT_EQ(Backed(BackingSide::kShared, page(48), 4), 0u);
  EXPECT_EQ(balloon->counters().reported_bytes, 20 * kPageSize);

  // The balloon proper: 8 pages.
  std::array<uint8_t, 8 * 4> frames;
  for (uint64_t i = 0; i < 8; ++i) {
    base::StoreLe<uint32_t>(&frames[i * 4],
                            static_cast<uint32_t>(page(40 + i) / kPageSize));
  }
  for (uint16_t queue : {kInflate, kDeflate}) {
    const uint64_t list = driver.ring(queue).header();
    ASSERT_OK(guest_->memory().Write(GuestAddress(list), frames));
    driver.Offer(queue, {{list, frames.size(), false}});
    ASSERT_TRUE(driver.Finish(queue));
    EXPECT_EQ(Backed(BackingSide::kPrivate, page(40), 8), 0u);
  }
  EXPECT_EQ(Backed(BackingSide::kPrivate, kFirst, kPages), kPages - 17 - 3 - 8);

  // They are what they were, and hold zeroes; nothing else lost a byte.
  for (uint64_t i = 0; i < kPages; ++i) {
    EXPECT_EQ(guest_->states().Get(GuestAddress(page(i))),
              i == 50 ? PageState::kShared : PageState::kPrivate);
  }
  for (const auto& [first, count] : std::vector<std::pair<uint64_t, uint64_t>>{
           {16, 16}, {40, 8}, {48, 2}, {51, 1}}) {
    EXPECT_OK(guest_->CheckPages(page(first), count, 0, 0));
  }
  EXPECT_OK(guest_->CheckPages(Microguest::SharedVa(page(50)), 1, 0, 0));
  EXPECT_OK(guest_->CheckPages(page(0), 16, kValue));
  EXPECT_OK(guest_->CheckPages(page(32), 8, kValue + 32));
  EXPECT_OK(guest_->CheckPages(page(52), 12, kValue + 52));
  // What is not the guest's to give stays.
  driver.Offer(kReports, {{0x80000, kPageSize, true}});
  ASSERT_TRUE(driver.Finish(kReports));
  const Balloon::Counters counters = balloon->counters();
  EXPECT_EQ(counters.refused_pages, 1u);
  EXPECT_EQ(counters.inflated_pages, 8u);
  EXPECT_EQ(counters.deflated_pages, 8u);
  EXPECT_EQ(counters.errors, 0u);
  driver.Reset();
  EXPECT_EQ(guest_->view().LeasedBytes(), 0u);
}

}  // namespace
}  // namespace cloister::tests
