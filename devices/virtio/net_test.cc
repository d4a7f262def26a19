// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/net.h"

#include <chrono>
#include <ctime>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/driver_fake_queue.h"
#include "cloister/devices/virtio/eventually.h"
#include "cloister/devices/virtio/net_header.h"
#include "cloister/devices/virtio/net_port_fake.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using memory::PageState;
using std::chrono::hours;
using ::testing::HasSubstr;
using Buffer = DriverFake::Buffer;

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
constexpr uint64_t kAll = ~uint64_t{0};
constexpr uint64_t kNoMerge = kAll & ~(uint64_t{1} << kNetMrgRxbuf);

std::string Payload(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i)
    text[i] = static_cast<char>(i * 7 + i / 251);
  return text;
}

std::string Bytes(const NetHeader& header) {
  const auto bytes = header.Serialize();
  return std::string(bytes.begin(), bytes.end());
}

// Yields until `condition` holds; false after ten seconds.
class NetTest : public ::testing::TestWithParam<bool> {
 protected:
  ~NetTest() override {
    driver_.reset();
    net_.reset();
  }

  void Make(uint64_t features = kAll, size_t pairs = 1,
            RateLimiterConfig rx_limit = {}, RateLimiterConfig tx_limit = {},
            FakeDriver::Options with = {}) {
    driver_.reset();
    net_.reset();
    wires_.clear();
    std::vector<std::unique_ptr<NetPort>> ports;
    for (size_t i = 0; i < pairs; ++i) {
      wires_.push_back(std::make_unique<NetWire>());
      ports.push_back(std::make_unique<NetPortFake>(*wires_.back()));
    }
    ASSERT_OK_AND_ASSIGN(NetMac mac, NetMac::Parse("52:54:00:01:02:03"));
    Net::Options options{
        "net0",      mac, rx_limit, tx_limit, std::chrono::milliseconds(1),
        pairs_limit_};
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("net"));
    ASSERT_OK_AND_ASSIGN(net_, Net::Create(std::move(options), std::move(ports),
                                           std::move(worker)));
    with.packed = GetParam();
    with.features = features;
    driver_ = std::make_unique<FakeDriver>(*net_, ram_, with);
    ASSERT_OK(driver_->Activate());
  }

  Buffer Readable(absl::string_view bytes) {
    return {ram_.AllocString(bytes), static_cast<uint32_t>(bytes.size()),
            false};
  }
  Buffer Writable(uint32_t size) { return {ram_.Alloc(size), size, true}; }
  Buffer OfferRx(uint32_t size, uint16_t queue = kRx) {
    const Buffer buffer = Writable(size);
    EXPECT_TRUE(driver_->queue(queue).Offer({{buffer}}).has_value());
    driver_->Kick(queue);
    return buffer;
  }
  absl::StatusOr<uint32_t> Send(const NetHeader& header,
                                absl::string_view payload,
                                uint16_t queue = kTx) {
    return driver_->Run(queue, {Readable(Bytes(header)), Readable(payload)});
  }
  const NetCounters& counters() { return net_->counters(); }
  NetWire& wire(size_t index = 0) { return *wires_[index]; }

  TokenBucketConfig pairs_limit_ = Net::kPairsLimit;
  FakeRam ram_{uint64_t{16} << 20};
  std::vector<std::unique_ptr<NetWire>> wires_;
  std::unique_ptr<Net> net_;
  std::unique_ptr<FakeDriver> driver_;
};

TEST_P(NetTest, RefusesNoPairsAndTooMany) {
  for (int count : {0, Net::kMaxPairs + 1}) {
    std::vector<std::unique_ptr<NetPort>> ports;
    NetWire wire;
    for (int i = 0; i < count; ++i) {
      ports.push_back(std::make_unique<NetPortFake>(wire));
    }
    ASSERT_OK_AND_ASSIGN(NetMac mac, NetMac::Parse("52:54:00:01:02:03"));
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("net"));
    const Net::Options options{"net0", mac, {}, {}};
    EXPECT_THAT(
        Net::Create(options, std::move(ports), std::move(worker)).status(),
        StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST_P(NetTest, SendsAPacketBehindACopyOfItsHeader) {
  Make();
  NetHeader header;
  header.flags = NetHeader::kNeedsCsum;
  header.csum_start = 34;
  header.csum_offset = 16;
  // These mean nothing here, and are not passed on.
  header.num_buffers = 77;
  header.hdr_len = 0xffff;
  const std::string payload = Payload(1000);
  EXPECT_THAT(Send(header, payload), IsOkAndHolds(0u));
  header.num_buffers = header.hdr_len = 0;
  EXPECT_EQ(wire().Take(), Bytes(header) + payload);
  EXPECT_EQ(counters().tx_packets.value(), 1u);
  EXPECT_EQ(counters().tx_bytes.value(), 1000u);
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_P(NetTest, SendsAPacketWithoutTheFlagsThatItDoesNotKnow) {
  Make();
  NetHeader header;
  header.flags = 0xfe;
  EXPECT_THAT(Send(header, Payload(100)), IsOkAndHolds(0u));
  header.flags = 0;
  EXPECT_EQ(wire().Take(), Bytes(header) + Payload(100));
  header.flags = 0xff;
  header.csum_start = 34;
  header.csum_offset = 16;
  EXPECT_THAT(Send(header, Payload(100)), IsOkAndHolds(0u));
  header.flags = NetHeader::kNeedsCsum;
  EXPECT_EQ(wire().Take(), Bytes(header) + Payload(100));
  EXPECT_EQ(counters().tx_dropped_malformed.value(), 0u);
}

TEST_P(NetTest, SendsWhatIsToBeSegmented) {
  Make();
  NetHeader header;
  header.flags = NetHeader::kNeedsCsum;
  header.gso_type = NetHeader::kGsoTcp4;
  header.gso_size = 500;
  header.hdr_len = 54;
  header.csum_start = 34;
  header.csum_offset = 16;
  EXPECT_THAT(Send(header, Payload(2000)), IsOkAndHolds(0u));
  EXPECT_EQ(wire().Take(), Bytes(header) + Payload(2000));
}

TEST_P(NetTest, KeepsTheOrderOfManyPackets) {
  Make();
  for (int i = 0; i < 300; ++i) {
    const std::string payload = absl::StrCat(Payload(60), i);
    ASSERT_OK(Send({}, payload));
    ASSERT_EQ(wire().Take(), Bytes({}) + payload);
  }
}

TEST_P(NetTest, DropsWhatTheHeaderMayNotSay) {
  Make(kAll & ~(uint64_t{1} << kNetHostTso4));
  NetHeader header;
  header.flags = NetHeader::kNeedsCsum;
  header.gso_type = NetHeader::kGsoTcp4;
  header.gso_size = 100;
  EXPECT_OK(Send(header, Payload(100)));
  header = NetHeader();
  header.flags = NetHeader::kNeedsCsum;
  header.csum_start = 99;
  EXPECT_OK(Send(header, Payload(100)));
  EXPECT_OK(Send({}, Payload(kNetMinPacket - 1)));
  EXPECT_EQ(counters().tx_dropped_malformed.value(), 3u);
  EXPECT_FALSE(wire().TakeNow().has_value());
  EXPECT_OK(Send({}, Payload(100)));
  EXPECT_TRUE(wire().Take().has_value());
}

TEST_P(NetTest, ATransmitRequestWithoutAHeaderNeedsAReset) {
  Make();
  EXPECT_EQ(QueueErrorOf(driver_->Run(kTx, {Readable("short")}).status()),
            QueueError::kBadRequest);
  ASSERT_TRUE(driver_->Reset());
  ASSERT_OK(driver_->Activate());
  EXPECT_EQ(
      QueueErrorOf(
          driver_->Run(kTx, {Readable(Payload(64)), Writable(1)}).status()),
      QueueError::kBadRequest);
}

TEST_P(NetTest, ReceivesIntoOneBuffer) {
  Make();
  const Buffer buffer = OfferRx(2048);
  NetHeader header;
  header.gso_type = NetHeader::kGsoTcp4;
  header.gso_size = 9;
  ASSERT_TRUE(wire().Put(header, Payload(500)));
  ASSERT_OK_AND_ASSIGN(DriverFake::Used used, driver_->WaitUsed(kRx));
  EXPECT_EQ(used.written, 512u);
  header.num_buffers = 1;
  EXPECT_EQ(ram_.String(buffer.address, 512), Bytes(header) + Payload(500));
  EXPECT_EQ(counters().rx_packets.value(), 1u);
  EXPECT_EQ(counters().rx_bytes.value(), 500u);
}

TEST_P(NetTest, SpreadsALargePacketOverSeveralBuffers) {
  Make();
  std::vector<Buffer> buffers;
  for (int i = 0; i < 6; ++i) buffers.push_back(OfferRx(1000));
  ASSERT_TRUE(wire().Put({}, Payload(4488)));
  std::string received;
  for (int i = 0; i < 5; ++i) {
    ASSERT_OK_AND_ASSIGN(DriverFake::Used used, driver_->WaitUsed(kRx));
    EXPECT_EQ(used.written, i < 4 ? 1000u : 500u);
    received += ram_.String(buffers[i].address, used.written);
  }
  NetHeader header;
  header.num_buffers = 5;
  EXPECT_EQ(received, Bytes(header) + Payload(4488));
  EXPECT_FALSE(driver_->queue(kRx).HasUsed());
}

// Looks at the driver's side around each PushAll, whose own steps queue_test
// takes one by one.
class WatchedQueue : public LateQueue {
 public:
  WatchedQueue(std::unique_ptr<Queue> queue, std::function<void()> before,
               std::function<void(size_t)> after)
      : LateQueue(std::move(queue), [] { return false; }),
        before_(std::move(before)),
        after_(std::move(after)) {}
  absl::Status PushAll(absl::Span<UsedChain> used) override {
    before_();
    absl::Status status = LateQueue::PushAll(used);
    after_(used.size());
    return status;
  }

 private:
  const std::function<void()> before_;
  const std::function<void(size_t)> after_;
};

TEST_P(NetTest, TheDriverSeesAllBuffersOfAPacketOrNone) {
  // The worker's until `done`: nobody else works the driver's queue meanwhile.
  std::vector<size_t> seen;
  std::promise<void> done;
  FakeDriver::Options with;
  with.wrap = [&](uint16_t index,
                  std::unique_ptr<Queue> queue) -> std::unique_ptr<Queue> {
    if (index != kRx) return queue;
    return std::make_unique<WatchedQueue>(
        std::move(queue), [&] { EXPECT_FALSE(driver_->queue(kRx).HasUsed()); },
        [&](size_t pushed) {
          size_t used = 0;
          while (driver_->queue(kRx).PopUsed().has_value()) ++used;
          EXPECT_EQ(used, pushed);
          seen.push_back(used);
          if (seen.size() == 2) done.set_value();
        });
  };
  Make(kAll, 1, {}, {}, with);
  for (int i = 0; i < 6; ++i) OfferRx(1000);
  ASSERT_TRUE(wire().Put({}, Payload(4488)));
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_EQ(done.get_future().wait_for(std::chrono::seconds(10)),
            std::future_status::ready);
  EXPECT_EQ(seen, (std::vector<size_t>{5, 1}));
}

TEST_P(NetTest, WaitsForTheBuffersThatAPacketNeeds) {
  Make();
  std::vector<Buffer> buffers = {OfferRx(1000)};
  ASSERT_TRUE(wire().Put({}, Payload(2500)));
  // The host touches none of them while it waits, and holds none.
  for (uint64_t waits : {1, 2}) {
    ASSERT_TRUE(Eventually([&] {
      return counters().rx_no_buffers.value() >= waits &&
             ram_.LeasedBytes() == 0;
    }));
    EXPECT_FALSE(driver_->queue(kRx).HasUsed());
    buffers.push_back(OfferRx(1000));
  }
  std::string received;
  for (const Buffer& buffer : buffers) {
    ASSERT_OK_AND_ASSIGN(DriverFake::Used used, driver_->WaitUsed(kRx));
    received += ram_.String(buffer.address, used.written);
  }
  NetHeader header;
  header.num_buffers = 3;
  EXPECT_EQ(received, Bytes(header) + Payload(2500));
  EXPECT_EQ(counters().rx_packets.value(), 1u);
  EXPECT_EQ(counters().rx_dropped_too_long.value(), 0u);
}

TEST_P(NetTest, ABufferThatIsTakenAwayWhileAPacketWaitsNeedsAReset) {
  Make();
  const Buffer buffer = {ram_.AllocPages(1), 1000, true};
  ASSERT_TRUE(driver_->queue(kRx).Offer({{buffer}}).has_value());
  driver_->Kick(kRx);
  ASSERT_TRUE(wire().Put({}, Payload(1500)));
  ASSERT_TRUE(Eventually([&] {
    return counters().rx_no_buffers.value() > 0 && ram_.LeasedBytes() == 0;
  }));
  ram_.SetState(buffer.address, 1, PageState::kPrivate);
  OfferRx(1000);
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  EXPECT_EQ(QueueErrorOf(*driver_->interrupts().reset_reason()),
            QueueError::kBufferNotShared);
}

TEST_P(NetTest, DropsWhatOneBufferCannotHoldWithoutMerging) {
  Make(kNoMerge);
  OfferRx(1000);
  ASSERT_TRUE(wire().Put({}, Payload(1500)));
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_OK_AND_ASSIGN(DriverFake::Used used, driver_->WaitUsed(kRx));
  EXPECT_EQ(used.written, 112u);
  EXPECT_EQ(counters().rx_dropped_too_long.value(), 1u);
}

TEST_P(NetTest, DropsWhatTheWholeRingCannotHold) {
  Make();
  for (int i = 0; i < 256; ++i) OfferRx(NetHeader::kSize);
  ASSERT_TRUE(wire().Put({}, Payload(60000)));
  for (int i = 0; i < 256; ++i) {
    ASSERT_OK_AND_ASSIGN(DriverFake::Used used, driver_->WaitUsed(kRx));
    EXPECT_EQ(used.written, 0u);
  }
  EXPECT_EQ(counters().rx_dropped_too_long.value(), 1u);
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_P(NetTest, ALimitedBandwidthNeedsNoMerging) {
  RateLimiterConfig limit;
  limit.bandwidth = {100000, 0, hours(1)};
  Make(kNoMerge, 1, limit);
  for (int i = 0; i < 2; ++i) OfferRx(1000);
  ASSERT_TRUE(wire().Put({}, Payload(1500)));
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_OK_AND_ASSIGN(DriverFake::Used used, driver_->WaitUsed(kRx));
  EXPECT_EQ(used.written, 112u);
  EXPECT_EQ(counters().rx_dropped_too_long.value(), 1u);
}

// Buffers of three descriptors each: one is left over, so that the driver has
// no room for another buffer.
TEST_P(NetTest, DropsWhatARingOfLargeBuffersCannotHold) {
  Make();
  for (int i = 0; i < 85; ++i) {
    ASSERT_TRUE(driver_->queue(kRx)
                    .Offer({{Writable(100), Writable(100), Writable(100)}})
                    .has_value());
  }
  driver_->Kick(kRx);
  ASSERT_TRUE(wire().Put({}, Payload(60000)));
  for (int i = 0; i < 85; ++i) ASSERT_OK(driver_->WaitUsed(kRx));
  EXPECT_EQ(counters().rx_dropped_too_long.value(), 1u);
  OfferRx(2048);
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  EXPECT_OK(driver_->WaitUsed(kRx));
}

TEST_P(NetTest, WithoutAReceiveQueueNothingWaitsForPackets) {
  FakeDriver::Options with;
  with.queues = {kTx};
  Make(kAll, 1, {}, {}, with);
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_OK(Send({}, Payload(100)));
  // A worker that is told of it again and again does nothing else; the pause is
  // the time in which it would, and nothing waits for it.
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 50);
}

TEST_P(NetTest, AReceiveBufferWithoutRoomForAHeaderNeedsAReset) {
  Make();
  OfferRx(NetHeader::kSize - 1);
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  EXPECT_EQ(QueueErrorOf(*driver_->interrupts().reset_reason()),
            QueueError::kBadRequest);
}

TEST_P(NetTest, HoldsNoLeaseWhileItIsIdle) {
  Make();
  for (int i = 0; i < 10; ++i) OfferRx(2048);
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_OK(driver_->WaitUsed(kRx));
  EXPECT_TRUE(Eventually([&] { return ram_.LeasedBytes() == 0; }));
}

TEST_P(NetTest, LimitsWhatTheGuestReceivesToTheByte) {
  RateLimiterConfig limit;
  limit.bandwidth = {1000, 0, hours(1)};
  Make(kAll, 1, limit);
  for (int i = 0; i < 8; ++i) OfferRx(2048);
  ASSERT_TRUE(wire().Put({}, Payload(600)));
  ASSERT_TRUE(wire().Put({}, Payload(600)));
  ASSERT_OK(driver_->WaitUsed(kRx));
  ASSERT_TRUE(Eventually([&] { return net_->rx_throttled() == 1; }));
  EXPECT_EQ(counters().rx_packets.value(), 1u);
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  RateLimiterUpdate update;
  update.bandwidth = TokenBucketConfig{};
  ASSERT_OK(net_->UpdateRxLimit(update));
  ASSERT_OK_AND_ASSIGN(DriverFake::Used used, driver_->WaitUsed(kRx));
  EXPECT_EQ(used.written, 612u);
  ASSERT_TRUE(wire().Put({}, Payload(5000)));  // directly, from now on
  ASSERT_OK(driver_->WaitUsed(kRx));
}

TEST_P(NetTest, LimitsWhatTheGuestSends) {
  RateLimiterConfig limit;
  limit.operations = {2, 0, hours(1)};
  Make(kAll, 1, {}, limit);
  ASSERT_OK(Send({}, Payload(100)));
  ASSERT_OK(Send({}, Payload(100)));
  ASSERT_TRUE(driver_->queue(kTx)
                  .Offer({{Readable(Bytes({})), Readable(Payload(100))}})
                  .has_value());
  driver_->Kick(kTx);
  ASSERT_TRUE(Eventually([&] { return net_->tx_throttled() == 1; }));
  EXPECT_FALSE(driver_->queue(kTx).HasUsed());
  RateLimiterUpdate update;
  update.operations = TokenBucketConfig{};
  ASSERT_OK(net_->UpdateTxLimit(update));
  ASSERT_OK(driver_->WaitUsed(kTx));
}

TEST_P(NetTest, LimitsPacketsTowardsTheGuest) {
  RateLimiterConfig limit;
  limit.operations = {1, 0, hours(1)};
  Make(kAll, 1, limit);
  for (int i = 0; i < 4; ++i) OfferRx(2048);
  ASSERT_TRUE(wire().Put({}, Payload(600)));
  ASSERT_TRUE(wire().Put({}, Payload(600)));
  ASSERT_OK(driver_->WaitUsed(kRx));
  ASSERT_TRUE(Eventually([&] { return net_->rx_throttled() == 1; }));
  EXPECT_EQ(counters().rx_packets.value(), 1u);
  EXPECT_TRUE(driver_->Reset());
}

TEST_P(NetTest, WaitsForRoomInTheInterface) {
  Make();
  wire().send_error = EAGAIN;
  ASSERT_TRUE(driver_->queue(kTx)
                  .Offer({{Readable(Bytes({})), Readable(Payload(100))}})
                  .has_value());
  driver_->Kick(kTx);
  ASSERT_TRUE(Eventually([&] { return counters().tx_busy.value() > 0; }));
  EXPECT_FALSE(driver_->queue(kTx).HasUsed());
  wire().send_error = 0;
  ASSERT_OK(driver_->WaitUsed(kTx));
  EXPECT_TRUE(wire().Take().has_value());
}

TEST_P(NetTest, DropsAndCountsWhatTheInterfaceRefuses) {
  Make();
  wire().send_error = EIO;
  wire().gone = true;  // which only EBADFD is a reason to ask for
  EXPECT_OK(Send({}, Payload(100)));
  EXPECT_EQ(counters().tx_dropped_tap.value(), 1u);
  EXPECT_EQ(counters().tap_errors.value(), 1u);
  EXPECT_TRUE(net_->link_up());
  wire().gone = false;
  wire().send_error = EBADFD;  // this queue is detached, say
  EXPECT_OK(Send({}, Payload(100)));
  EXPECT_EQ(counters().tx_dropped_tap.value(), 2u);
  EXPECT_TRUE(net_->link_up());
  wire().send_error = 0;
  EXPECT_OK(Send({}, Payload(100)));
  EXPECT_TRUE(wire().Take().has_value());
}

TEST_P(NetTest, LeavesAnInterfaceThatFailsAloneForAWhile) {
  Make();
  OfferRx(2048);
  wire().receive_error = EFAULT;
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_TRUE(Eventually([&] { return counters().tap_errors.value() >= 2; }));
  wire().receive_error = 0;
  ASSERT_OK(driver_->WaitUsed(kRx));
  EXPECT_TRUE(net_->link_up());
}

TEST_P(NetTest, AnInterfaceThatGoesAwayTakesTheLinkDown) {
  Make();
  OfferRx(2048);
  EXPECT_EQ(driver_->ReadConfig(6, 2), 1u);
  wire().receive_error = EBADFD;
  wire().send_error = EBADFD;
  wire().gone = true;
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_TRUE(driver_->interrupts().WaitForConfig(1));
  EXPECT_EQ(driver_->ReadConfig(6, 2), 0u);
  EXPECT_FALSE(net_->link_up());
  EXPECT_EQ(counters().link_down.value(), 1u);
  // Nobody asks it again.
  const uint64_t receives = wire().receives;
  for (int i = 0; i < 5; ++i) EXPECT_OK(Send({}, Payload(100)));
  EXPECT_EQ(counters().tx_dropped_tap.value(), 5u);
  EXPECT_EQ(wire().receives, receives);
  // A driver that starts again finds it the same.
  ASSERT_TRUE(driver_->Reset());
  ASSERT_OK(driver_->Activate());
  EXPECT_OK(Send({}, Payload(100)));
  EXPECT_EQ(driver_->ReadConfig(6, 2), 0u);
}

TEST_P(NetTest, FindsOutWhenSendingThatTheInterfaceIsGone) {
  Make();
  wire().send_error = EBADFD;
  wire().gone = true;
  EXPECT_OK(Send({}, Payload(100)));
  EXPECT_TRUE(driver_->interrupts().WaitForConfig(1));
}

TEST_P(NetTest, NeedsAResetIfTheInterfaceCannotBeSetUp) {
  Make();
  ASSERT_TRUE(driver_->Reset());
  wire().control_error = EINVAL;
  ASSERT_OK(driver_->Activate());
  EXPECT_TRUE(driver_->interrupts().WaitForReset());
  ASSERT_TRUE(driver_->Reset());
  wire().control_error = 0;
  ASSERT_OK(driver_->Activate());
  EXPECT_OK(Send({}, Payload(100)));
}

TEST_P(NetTest, OffersTheHostWhatTheDriverTakes) {
  Make(kAll & ~(uint64_t{1} << kNetGuestTso6));
  ASSERT_OK(Send({}, Payload(100)));
  const NetOffloads offloads = wire().offloads();
  EXPECT_TRUE(offloads.checksum && offloads.tso4 && offloads.ufo);
  EXPECT_FALSE(offloads.tso6);
}

TEST_P(NetTest, ConfigurationSaysMacStatusAndPairs) {
  Make(kAll, 3);
  EXPECT_EQ(driver_->ReadConfig(0, 6), 0x030201005452u);
  EXPECT_EQ(driver_->ReadConfig(6, 2), 1u);
  EXPECT_EQ(driver_->ReadConfig(8, 2), 3u);
  EXPECT_EQ(driver_->ReadConfig(9, 4), 0u);
  EXPECT_EQ(driver_->ReadConfig(~uint64_t{0}, 4), 0u);
  EXPECT_EQ(net_->queue_sizes().size(), 7u);
}

// --- What only a hostile driver, or a broken host, does.

TEST_P(NetTest, DropsWhatIsLongerThanAnyPacket) {
  Make();
  EXPECT_OK(Send({}, std::string(kNetMaxPacket + 1, 'x')));
  EXPECT_EQ(counters().tx_dropped_malformed.value(), 1u);
  EXPECT_FALSE(wire().TakeNow().has_value());
}

TEST_P(NetTest, DropsWhatIsInMorePiecesThanTheHostTakes) {
  Make();
  const std::string bytes = Bytes({}) + Payload(2048);
  const memory::GuestAddress at = ram_.AllocString(bytes);
  // The header's piece holds some of the packet, too.
  std::vector<Buffer> pieces = {{at, 16, false}};
  while (pieces.size() < 1024) {
    pieces.push_back({*at.Plus(16 + pieces.size()), 1, false});
  }
  EXPECT_THAT(driver_->Run(kTx, pieces, /*indirect=*/true), IsOkAndHolds(0u));
  EXPECT_EQ(counters().tx_dropped_malformed.value(), 1u);
  EXPECT_FALSE(wire().TakeNow().has_value());
}

TEST_P(NetTest, AReceiveBufferOfTooManyPiecesNeedsAReset) {
  Make();
  const memory::GuestAddress at = ram_.Alloc(2048);
  std::vector<Buffer> pieces;
  while (pieces.size() < 1024) {
    pieces.push_back({*at.Plus(pieces.size()), 1, true});
  }
  ASSERT_TRUE(driver_->queue(kRx).Offer(pieces, /*indirect=*/true).has_value());
  driver_->Kick(kRx);
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  EXPECT_EQ(QueueErrorOf(*driver_->interrupts().reset_reason()),
            QueueError::kBadRequest);
}

TEST_P(NetTest, APacketWithoutAHeaderIsTheInterfacesFault) {
  for (uint64_t bandwidth : {0, 100000}) {
    RateLimiterConfig limit;
    limit.bandwidth = {bandwidth, 0, hours(bandwidth == 0 ? 0 : 1)};
    Make(kAll, 1, limit);
    OfferRx(2048);
    ASSERT_TRUE(wire().PutRaw("short"));
    ASSERT_TRUE(Eventually([&] { return counters().tap_errors.value() == 1; }));
    ASSERT_TRUE(wire().Put({}, Payload(100)));
    ASSERT_OK(driver_->WaitUsed(kRx));
    EXPECT_EQ(counters().rx_packets.value(), 1u);
  }
}

TEST_P(NetTest, AnInterfaceThatFailsBehindALimitIsLeftAloneToo) {
  RateLimiterConfig limit;
  limit.bandwidth = {100000, 0, hours(1)};
  Make(kAll, 1, limit);
  OfferRx(2048);
  wire().receive_error = EIO;
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_TRUE(Eventually([&] { return counters().tap_errors.value() >= 2; }));
  wire().receive_error = 0;
  ASSERT_OK(driver_->WaitUsed(kRx));
}

TEST_P(NetTest, ADriverWithoutAReceiveQueueGetsNothing) {
  FakeDriver::Options with;
  with.queues = {kTx};
  Make(kAll, 1, {}, {}, with);
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  ASSERT_OK(Send({}, Payload(100)));
  EXPECT_EQ(counters().rx_packets.value(), 0u);
  EXPECT_EQ(wire().receives, 0u);
}

TEST_P(NetTest, SeesABufferThatComesAsItStopsLooking) {
  const LateQueue::First first = LateQueue::Once([this] {
    const Buffer buffer = Writable(2048);
    EXPECT_TRUE(driver_->queue(kRx).Offer({{buffer}}).has_value());
  });
  FakeDriver::Options with;
  with.wrap = [first](uint16_t index,
                      std::unique_ptr<Queue> queue) -> std::unique_ptr<Queue> {
    if (index != kRx) return queue;
    return std::make_unique<LateQueue>(std::move(queue), first.moment);
  };
  Make(kAll, 1, {}, {}, with);
  first.done.wait();
  ASSERT_TRUE(wire().Put({}, Payload(100)));
  EXPECT_OK(driver_->WaitUsed(kRx));
}

// Its event area is gone when the first packet is to be announced.
class DeafQueue : public LateQueue {
 public:
  explicit DeafQueue(std::unique_ptr<Queue> queue)
      : LateQueue(std::move(queue), [] { return false; }) {}
  absl::StatusOr<bool> NeedsInterrupt() override {
    return MakeQueueError(QueueError::kRingNotShared, "the driver's area");
  }
};

TEST_P(NetTest, ADriverThatCannotBeToldOfAPacketNeedsAReset) {
  FakeDriver::Options with;
  with.wrap = [](uint16_t index,
                 std::unique_ptr<Queue> queue) -> std::unique_ptr<Queue> {
    if (index != kRx) return queue;
    return std::make_unique<DeafQueue>(std::move(queue));
  };
  Make(kAll, 1, {}, {}, with);
  // Buffers and a packet more than the one after which it stops.
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(wire().Put({}, Payload(100)));
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(driver_->queue(kRx).Offer({{Writable(2048)}}).has_value());
  }
  driver_->Kick(kRx);
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  ASSERT_TRUE(driver_->Reset());  // behind what the worker had begun
  EXPECT_EQ(QueueErrorOf(*driver_->interrupts().reset_reason()),
            QueueError::kRingNotShared);
  EXPECT_EQ(counters().rx_packets.value(), 1u);
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_P(NetTest, ADriverThatOnlyPretendsDoesNotHoldTheWorker) {
  FakeDriver::Options with;
  with.wrap = [](uint16_t, std::unique_ptr<Queue> queue) {
    return std::make_unique<LateQueue>(std::move(queue), [] { return true; });
  };
  // With a limit the packet is taken first, and waits for its buffer.
  for (uint64_t bandwidth : {0, 100000}) {
    RateLimiterConfig limit;
    limit.bandwidth = {bandwidth, 0, hours(bandwidth == 0 ? 0 : 1)};
    Make(kAll, 1, limit, {}, with);
    ASSERT_TRUE(wire().Put({}, Payload(100)));
    ASSERT_OK(Send({}, Payload(100)));
    if (bandwidth != 0) {
      ASSERT_TRUE(
          Eventually([&] { return counters().rx_no_buffers.value() > 1000; }));
    }
    OfferRx(2048);
    ASSERT_OK(driver_->WaitUsed(kRx));
    ASSERT_TRUE(driver_->Reset());
    EXPECT_EQ(ram_.LeasedBytes(), 0u);
  }
}

TEST_P(NetTest, AnInterfaceThatIsGoneWhenTheDriverStartsTakesTheLinkDown) {
  Make();
  ASSERT_TRUE(driver_->Reset());
  wire().control_error = EBADFD;
  wire().gone = true;
  ASSERT_OK(driver_->Activate());
  EXPECT_OK(Send({}, Payload(100)));
  EXPECT_FALSE(net_->link_up());
  EXPECT_EQ(counters().link_down.value(), 1u);
  EXPECT_EQ(driver_->interrupts().reset_reason(), std::nullopt);
}

class NetPairsTest : public NetTest {
 protected:
  absl::StatusOr<uint8_t> Command(const std::string& bytes) {
    const Buffer ack = Writable(1);
    auto result = driver_->Run(4, {Readable(bytes), ack});
    if (!result.ok()) return result.status();
    return ram_.Bytes(ack.address, 1)[0];
  }
  absl::StatusOr<uint8_t> SetPairs(uint16_t count) {
    std::string bytes = {4, 0, 0, 0};
    base::StoreLe<uint16_t>(&bytes[2], count);
    return Command(bytes);
  }
};

TEST_P(NetPairsTest, UsesAsManyPairsAsTheDriverAsksFor) {
  Make(kAll, 2);
  ASSERT_OK(Send({}, Payload(100), 1));
  EXPECT_FALSE(wire(1).enabled);
  EXPECT_THAT(SetPairs(2), IsOkAndHolds(0));
  EXPECT_TRUE(wire(1).enabled);
  ASSERT_OK(Send({}, Payload(100), 3));
  EXPECT_TRUE(wire(1).Take().has_value());
  OfferRx(2048, 2);
  ASSERT_TRUE(wire(1).Put({}, Payload(300)));
  ASSERT_OK(driver_->WaitUsed(2));
  EXPECT_THAT(SetPairs(1), IsOkAndHolds(0));
  EXPECT_FALSE(wire(1).enabled);
}

// A pair that always has more to send leaves the other its share.
TEST_P(NetPairsTest, PairsTakeTurnsUnderALimit) {
  RateLimiterConfig limit;
  limit.operations = {1, 0, std::chrono::milliseconds(5)};
  Make(kAll, 2, limit, limit);
  ASSERT_THAT(SetPairs(2), IsOkAndHolds(0));
  constexpr int kMany = 60, kFew = 5;
  for (uint16_t pair : {0, 1}) {
    for (int i = 0; i < (pair == 0 ? kMany : kFew); ++i) {
      ASSERT_TRUE(driver_->queue(2 * pair + 1)
                      .Offer({{Readable(Bytes({})), Readable(Payload(100))}})
                      .has_value());
      ASSERT_TRUE(
          driver_->queue(2 * pair).Offer({{Writable(2048)}}).has_value());
      ASSERT_TRUE(wire(pair).Put({}, Payload(300)));
    }
  }
  for (uint16_t queue : {1, 3, 0, 2}) driver_->Kick(queue);
  for (uint16_t queue : {3, 2}) {
    for (int i = 0; i < kFew; ++i) ASSERT_OK(driver_->WaitUsed(queue));
    int other = 0;
    for (uint16_t busy = queue - 2; driver_->queue(busy).HasUsed(); ++other) {
      ASSERT_OK(driver_->WaitUsed(busy));
    }
    EXPECT_LT(other, kMany) << queue;
  }
}

TEST_P(NetPairsTest, RefusesOtherCommands) {
  Make(kAll, 2);
  EXPECT_THAT(SetPairs(0), IsOkAndHolds(1));
  EXPECT_THAT(SetPairs(3), IsOkAndHolds(1));
  EXPECT_THAT(Command(std::string("\4\1\1\0", 4)), IsOkAndHolds(1));
  EXPECT_THAT(Command(std::string("\1\0\1\0", 4)), IsOkAndHolds(1));
  EXPECT_THAT(Command(std::string("\4\0\1", 3)), IsOkAndHolds(1));
  EXPECT_EQ(counters().control_commands.value(), 5u);
  EXPECT_EQ(counters().control_refused.value(), 5u);
  EXPECT_EQ(QueueErrorOf(driver_->Run(4, {Readable("abcd")}).status()),
            QueueError::kBadRequest);
}

// Each change takes a lock of the host's whole network.
TEST_P(NetPairsTest, ChangesOfPairsAreLimited) {
  pairs_limit_ = {2, 0, hours(1)};
  Make(kAll, 2);
  for (uint16_t pairs : {2, 2, 1, 1}) {
    EXPECT_THAT(SetPairs(pairs), IsOkAndHolds(0));
  }
  const std::string two("\4\0\2\0", 4);
  ASSERT_TRUE(
      driver_->queue(4).Offer({{Readable(two), Writable(1)}}).has_value());
  driver_->Kick(4);
  ASSERT_OK(Send({}, Payload(100)));
  ASSERT_TRUE(wire().Take().has_value());
  EXPECT_FALSE(wire(1).enabled);
  EXPECT_EQ(counters().control_commands.value(), 4u);
  ASSERT_TRUE(driver_->Reset());
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  // And they come in time.
  pairs_limit_ = {1, 0, std::chrono::milliseconds(1)};
  Make(kAll, 2);
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(SetPairs(i % 2 == 0 ? 2 : 1), IsOkAndHolds(0));
  }
}

TEST_P(NetPairsTest, ACommandThatIsTooShortNeedsAReset) {
  Make(kAll, 2);
  EXPECT_EQ(QueueErrorOf(Command("4").status()), QueueError::kBadRequest);
}

TEST_P(NetPairsTest, NeedsAResetIfAnInterfacesQueueCannotBeSwitched) {
  Make(kAll, 2);
  ASSERT_OK(Send({}, Payload(100)));
  wire(1).control_error = EINVAL;
  EXPECT_FALSE(SetPairs(2).ok());
  EXPECT_EQ(counters().tap_errors.value(), 1u);
  EXPECT_TRUE(net_->link_up());
}

TEST_P(NetPairsTest, SwitchingAQueueFindsOutThatTheInterfaceIsGone) {
  Make(kAll, 2);
  ASSERT_OK(Send({}, Payload(100)));
  wire(1).control_error = EBADFD;
  wire(1).gone = true;
  EXPECT_THAT(SetPairs(2), IsOkAndHolds(0));
  EXPECT_FALSE(net_->link_up());
  EXPECT_EQ(counters().link_down.value(), 1u);
}

TEST_P(NetPairsTest, TheLinkGoesDownOnce) {
  Make(kAll, 2);
  EXPECT_THAT(SetPairs(2), IsOkAndHolds(0));
  for (int i : {0, 1}) {
    wire(i).send_error = EBADFD;
    wire(i).gone = true;
  }
  // Both at one time: one of the workers' turns tells the other pair.
  EXPECT_OK(Send({}, Payload(100), 1));
  EXPECT_OK(Send({}, Payload(100), 3));
  EXPECT_EQ(counters().link_down.value(), 1u);
}

TEST_P(NetPairsTest, WithoutMultiqueueTheThirdQueueIsNotControl) {
  Make(kAll & ~(uint64_t{1} << kNetMq), 2);
  ASSERT_OK(Send({}, Payload(100)));
  EXPECT_TRUE(wire(0).Take().has_value());
  EXPECT_FALSE(wire(1).enabled);
}

INSTANTIATE_TEST_SUITE_P(Rings, NetTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });
INSTANTIATE_TEST_SUITE_P(Rings, NetPairsTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace cloister::devices::virtio
