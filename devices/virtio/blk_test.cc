// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk.h"

#include <cerrno>
#include <chrono>
#include <future>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/disk_fake_engine.h"
#include "cloister/devices/virtio/disk_test_file.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/driver_fake_queue.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/eventually.h"
#include "cloister/devices/virtio/queue_error.h"

namespace cloister::devices::virtio {
namespace {

using ::cloister::base::StatusIs;
using memory::GuestAddress;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using Buffer = DriverFake::Buffer;

constexpr uint64_t kSize = 1 << 20;
constexpr uint32_t kIn = 0, kOut = 1, kFlush = 4, kId = 8, kTrim = 11,
                   kZero = 13;
constexpr int kOk = 0, kIoError = 1, kUnsupported = 2, kPending = 0xee;

class BlkTest : public ::testing::Test {
 protected:
  void Start(Blk::Options options = {},
             FakeDriver::Options driver_options = {}) {
    if (options.file.path.empty()) options.file.path = image_.path();
    options.logger = &logger_;
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("blk"));
    ASSERT_OK_AND_ASSIGN(blk_,
                         Blk::Create(std::move(options), std::move(worker)));
    driver_ = std::make_unique<FakeDriver>(*blk_, ram_, driver_options);
    ASSERT_OK(driver_->Activate());
  }
  // With operations that fail or stay in flight as fault_ says.
  void StartFaulty(FakeDriver::Options driver_options = {}) {
    Blk::Options options;
    options.engine_factory = fault_.MakeFactory();
    Start(std::move(options), driver_options);
  }
  static Blk::Options Limited(uint64_t operations) {
    Blk::Options options;
    options.limit.operations = {operations, 0, std::chrono::hours(1)};
    return options;
  }

  GuestAddress Header(uint32_t type, uint64_t sector) {
    std::vector<uint8_t> bytes(16, 0);
    base::StoreLe<uint32_t>(&bytes[0], type);
    base::StoreLe<uint64_t>(&bytes[8], sector);
    GuestAddress at = ram_.Alloc(16);
    ram_.Write(at, bytes);
    return at;
  }
  GuestAddress StatusByte() {
    GuestAddress at = ram_.Alloc(1);
    ram_.Store<uint8_t>(at, kPending);
    return at;
  }
  int Read(GuestAddress at) { return ram_.Load<uint8_t>(at); }

  struct Request {
    std::vector<Buffer> buffers;
    GuestAddress data;
    GuestAddress status;
  };
  // A request as Linux lays it out: header, data, status.
  Request Make(uint32_t type, uint64_t sector, const std::string& out,
               uint32_t in = 0) {
    Request request;
    request.status = StatusByte();
    request.buffers.push_back({Header(type, sector), 16, false});
    if (!out.empty()) {
      request.data = ram_.Alloc(out.size(), 512);
      ram_.Write(request.data, out);
      request.buffers.push_back(
          {request.data, static_cast<uint32_t>(out.size()), false});
    }
    if (in != 0) {
      request.data = ram_.Alloc(in, 512);
      request.buffers.push_back({request.data, in, true});
    }
    request.buffers.push_back({request.status, 1, true});
    return request;
  }
  // Runs it to the end; its status, or -1 if it has none.
  int Do(const Request& request, uint16_t queue = 0) {
    auto written = driver_->Run(queue, request.buffers);
    if (!written.ok()) {
      ADD_FAILURE() << written.status();
      return -1;
    }
    return Read(request.status);
  }
  int Do(uint32_t type, uint64_t sector, const std::string& out = "",
         uint32_t in = 0) {
    return Do(Make(type, sector, out, in));
  }
  std::string DoRead(uint64_t sector, uint32_t size) {
    Request request = Make(kIn, sector, "", size);
    EXPECT_EQ(Do(request), kOk);
    return ram_.String(request.data, size);
  }
  void Offer(const Request& request) {
    ASSERT_TRUE(driver_->queue(0).Offer(request.buffers).has_value());
    driver_->Kick(0);
  }
  void Switch(uint8_t writeback) {
    blk_->WriteConfig(32, absl::MakeConstSpan(&writeback, 1));
  }
  std::vector<DiskOp::Kind> Kinds() const {
    std::vector<DiskOp::Kind> kinds;
    for (const DiskOp& op : fault_.log()) kinds.push_back(op.kind);
    return kinds;
  }
  static std::string Segment(uint64_t sector, uint32_t sectors,
                             uint32_t flags = 0) {
    std::string bytes(16, '\0');
    base::StoreLe<uint64_t>(&bytes[0], sector);
    base::StoreLe<uint32_t>(&bytes[8], sectors);
    base::StoreLe<uint32_t>(&bytes[12], flags);
    return bytes;
  }

  DiskTestFile image_{DiskTestPattern(kSize, 1)};
  const std::string content_ = DiskTestPattern(kSize, 1);
  std::string log_;
  base::Logger logger_{[this](base::LogLevel, absl::string_view line) {
                         absl::StrAppend(&log_, line, "\n");
                       },
                       base::LogLevel::kDebug};
  FakeRam ram_;
  DiskFault fault_;
  std::unique_ptr<Blk> blk_;
  std::unique_ptr<FakeDriver> driver_;
};

TEST_F(BlkTest, IsABlockDevice) {
  Blk::Options options;
  options.name = "blk7";
  options.queues = 3;
  options.queue_size = 64;
  Start(std::move(options));
  EXPECT_EQ(blk_->name(), "blk7");
  EXPECT_EQ(blk_->type(), 2u);
  EXPECT_THAT(blk_->queue_sizes(), ElementsAre(64, 64, 64));
  EXPECT_EQ(driver_->ReadConfig(0, 8), kSize / 512);
  EXPECT_EQ(driver_->ReadConfig(20, 4), 512u);
  EXPECT_EQ(driver_->ReadConfig(34, 2), 3u);
  EXPECT_EQ(driver_->ReadConfig(59, 8), 0u);
  EXPECT_EQ(driver_->ReadConfig(UINT64_MAX, 8), 0u);
}

TEST_F(BlkTest, RefusesBadOptions) {
  auto refusal = [&](auto change) {
    Blk::Options options;
    options.file.path = image_.path();
    change(options);
    auto worker = Worker::Create("blk");
    return Blk::Create(std::move(options), *std::move(worker)).status();
  };
  auto invalid = [](const char* why) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why));
  };
  EXPECT_THAT(refusal([](auto& o) { o.queues = 0; }), invalid("queues"));
  EXPECT_THAT(refusal([](auto& o) { o.queues = 65; }), invalid("queues"));
  EXPECT_THAT(refusal([](auto& o) { o.queue_size = 100; }), invalid("power"));
  EXPECT_THAT(refusal([](auto& o) { o.queue_size = 2048; }), invalid("power"));
  EXPECT_THAT(refusal([](auto& o) { o.queue_size = 2; }), invalid("power"));
  EXPECT_THAT(refusal([](auto& o) { o.serial = std::string(21, 'x'); }),
              invalid("serial"));
  EXPECT_THAT(refusal([](auto& o) { o.serial = "a\nb"; }), invalid("serial"));
  EXPECT_THAT(refusal([](auto& o) { o.limit.bandwidth.size = 5; }),
              invalid("refill"));
  EXPECT_THAT(refusal([](auto& o) { o.file.path = "/nonexistent"; }),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(BlkTest, ReadsWritesAndFlushes) {
  for (DiskEngineKind kind :
       {DiskEngineKind::kAuto, DiskEngineKind::kThreads}) {
    Blk::Options options;
    options.engine.kind = kind;
    Start(std::move(options));
    EXPECT_EQ(DoRead(8, 65536), content_.substr(4096, 65536));
    const std::string data = DiskTestPattern(8192, static_cast<int>(kind) + 2);
    EXPECT_EQ(Do(kOut, 8, data), kOk);
    EXPECT_EQ(Do(kFlush, 0), kOk);
    EXPECT_EQ(image_.Read(4096, 8192), data);
    image_.Write(0, content_);
    BlkCounters counters = blk_->counters();
    EXPECT_EQ(counters.reads, 1u);
    EXPECT_EQ(counters.read_bytes, 65536u);
    EXPECT_EQ(counters.writes, 1u);
    EXPECT_EQ(counters.written_bytes, 8192u);
    EXPECT_EQ(counters.flushes, 1u);
    EXPECT_EQ(counters.in_flight, 0u);
    EXPECT_EQ(ram_.LeasedBytes(), 0u);
    driver_.reset();
    blk_.reset();
  }
}

TEST_F(BlkTest, WorksOnPackedRingsWithTablesAndEventIndex) {
  Start({}, {.packed = true, .indirect = true, .event_idx = true});
  Request request = Make(kIn, 0, "", 4096);
  EXPECT_OK(driver_->Run(0, request.buffers, /*indirect=*/true));
  EXPECT_EQ(Read(request.status), kOk);
  EXPECT_EQ(ram_.String(request.data, 4096), content_.substr(0, 4096));
}

TEST_F(BlkTest, AnyFramingWillDo) {
  Start();
  // The header in two parts, the data in pieces, the status behind the last.
  GuestAddress header = Header(kIn, 1);
  GuestAddress data = ram_.Alloc(4096);
  ram_.Store<uint8_t>(*data.Plus(1024), kPending);
  std::vector<Buffer> buffers = {{header, 5, false},
                                 {*header.Plus(5), 11, false},
                                 {data, 1, true},
                                 {*data.Plus(1), 600, true},
                                 {*data.Plus(601), 424, true}};
  ASSERT_OK_AND_ASSIGN(uint32_t written, driver_->Run(0, buffers));
  EXPECT_EQ(written, 1025u);
  EXPECT_EQ(ram_.String(data, 1024), content_.substr(512, 1024));
  EXPECT_EQ(Read(*data.Plus(1024)), kOk);
}

TEST_F(BlkTest, TellsItsSerialNumber) {
  Blk::Options options;
  options.serial = "serial-0123456789";
  Start(std::move(options));
  Request request = Make(kId, 0, "", 20);
  EXPECT_EQ(Do(request), kOk);
  EXPECT_EQ(ram_.String(request.data, 20),
            std::string("serial-0123456789\0\0\0", 20));
  Request small = Make(kId, 0, "", 6);
  EXPECT_EQ(Do(small), kOk);
  EXPECT_EQ(ram_.String(small.data, 6), "serial");
  EXPECT_EQ(blk_->counters().ids, 2u);
}

TEST_F(BlkTest, RefusesWhatIsNotOnTheDiskOrUnknown) {
  Start();
  EXPECT_EQ(Do(kIn, kSize / 512, "", 512), kIoError);
  EXPECT_EQ(Do(kOut, UINT64_MAX, std::string(512, 'x')), kIoError);
  EXPECT_EQ(Do(kIn, 0, "", 100), kIoError);
  EXPECT_EQ(Do(99, 0, "", 512), kUnsupported);
  EXPECT_EQ(Do(kTrim, 0, Segment(kSize / 512, 1)), kIoError);
  EXPECT_EQ(blk_->counters().refused, 5u);
  // None, off the disk, not whole blocks, read-only, malformed, unsupported.
  EXPECT_THAT(blk_->counters().refusals, ElementsAre(0, 3, 1, 0, 0, 1));
  EXPECT_TRUE(blk_->counters().errors.empty());
  EXPECT_EQ(image_.Read(0, kSize), content_);
}

TEST_F(BlkTest, AReadOnlyDiskIsOne) {
  Blk::Options options;
  options.file.read_only = true;
  Start(std::move(options));
  EXPECT_EQ(DoRead(0, 512), content_.substr(0, 512));
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kIoError);
  EXPECT_EQ(Do(kTrim, 0, Segment(0, 8)), kUnsupported);
  EXPECT_EQ(Do(kFlush, 0), kOk);
  EXPECT_EQ(image_.Read(0, kSize), content_);
}

TEST_F(BlkTest, DiscardsAndWritesZeroes) {
  Start();
  EXPECT_EQ(Do(kZero, 0, Segment(0, 8) + Segment(100, 0) + Segment(16, 8, 1)),
            kOk);
  EXPECT_EQ(image_.Read(0, 4096), std::string(4096, '\0'));
  EXPECT_EQ(image_.Read(4096, 4096), content_.substr(4096, 4096));
  EXPECT_EQ(image_.Read(8192, 4096), std::string(4096, '\0'));
  EXPECT_EQ(Do(kTrim, 0, Segment(1024, 256) + Segment(512, 8)), kOk);
  EXPECT_EQ(Do(kZero, 0, Segment(0, 0)), kOk);  // nothing to do
  EXPECT_EQ(Do(kTrim, 0, Segment(0, 8, 1)), kUnsupported);
  EXPECT_EQ(blk_->counters().write_zeroes, 2u);
  EXPECT_EQ(blk_->counters().discards, 1u);
}

TEST_F(BlkTest, WhatWasNotNegotiatedIsUnsupported) {
  Start({}, {.features = ~(uint64_t{1} << 13 | uint64_t{1} << 14)});
  EXPECT_EQ(Do(kTrim, 0, Segment(0, 8)), kUnsupported);
  EXPECT_EQ(Do(kZero, 0, Segment(0, 8)), kUnsupported);
}

TEST_F(BlkTest, ARequestThatCannotBeAnsweredNeedsAReset) {
  Start();
  std::vector<Buffer> no_status = {{Header(kOut, 0), 16, false}};
  EXPECT_EQ(QueueErrorOf(driver_->Run(0, no_status).status()),
            QueueError::kBadRequest);
  ASSERT_TRUE(driver_->Reset());
  ASSERT_OK(driver_->Activate());
  std::vector<Buffer> no_header = {{Header(kIn, 0), 15, false},
                                   {StatusByte(), 1, true}};
  EXPECT_EQ(QueueErrorOf(driver_->Run(0, no_header).status()),
            QueueError::kBadRequest);
  ASSERT_TRUE(driver_->Reset());
  ASSERT_OK(driver_->Activate());
  EXPECT_EQ(DoRead(0, 512), content_.substr(0, 512));
}

TEST_F(BlkTest, PrivateMemoryIsOutOfReach) {
  Start();
  Request request = Make(kIn, 0, "", 512);
  GuestAddress page = ram_.AllocPages(1);
  ram_.SetState(page, 4096, memory::PageState::kPrivate);
  request.buffers[1].address = page;
  EXPECT_EQ(QueueErrorOf(driver_->Run(0, request.buffers).status()),
            QueueError::kBufferNotShared);
  EXPECT_EQ(ram_.Bytes(page, 512), std::vector<uint8_t>(512, 0));
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_F(BlkTest, LeasesLastAsLongAsTheOperation) {
  StartFaulty();
  fault_.Hold();
  Request request = Make(kOut, 0, std::string(4096, 'x'));
  Offer(request);
  ASSERT_TRUE(fault_.WaitForHeld(1));
  EXPECT_GE(ram_.LeasedBytes(), 4096u);
  EXPECT_EQ(blk_->counters().in_flight, 1u);
  fault_.Release();
  ASSERT_OK(driver_->WaitUsed(0));
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  EXPECT_EQ(Read(request.status), kOk);
}

TEST_F(BlkTest, NoLeaseOutlastsTheUseOfAHeader) {
  StartFaulty();
  // Header, segments, data and status on pages of their own: how many of them
  // are leased while the operation is in flight. One is the status's, another
  // that of data.
  auto expect = [&](uint64_t pages, uint32_t type, const std::string& out,
                    uint32_t in) {
    Request request = Make(type, 0, out, in);
    for (Buffer& buffer : request.buffers) {
      const GuestAddress page = ram_.AllocPages(1);
      ram_.Write(page, ram_.Bytes(buffer.address, buffer.length));
      buffer.address = page;
    }
    request.status = request.buffers.back().address;
    fault_.Hold();
    Offer(request);
    EXPECT_TRUE(fault_.WaitForHeld(1));
    // The turn that served it may still lease the rings.
    EXPECT_TRUE(Eventually([&] { return ram_.LeasedBytes() == pages * 4096; }))
        << type;
    fault_.Release();
    EXPECT_OK(driver_->WaitUsed(0));
    EXPECT_EQ(Read(request.status), kOk);
  };
  expect(1, kFlush, "", 0);
  expect(1, kTrim, Segment(0, 8), 0);
  expect(1, kZero, Segment(0, 8), 0);
  expect(2, kIn, "", 512);
  expect(2, kOut, std::string(512, 'x'), 0);
}

TEST_F(BlkTest, ErrorsOfTheHostReachTheGuestAndTheCounters) {
  StartFaulty();
  fault_.Fail(DiskOp::Kind::kRead, EIO);
  fault_.Fail(DiskOp::Kind::kWrite, ENOSPC);
  fault_.Fail(DiskOp::Kind::kFlush, EIO);
  EXPECT_EQ(Do(kIn, 0, "", 512), kIoError);
  EXPECT_EQ(Do(kOut, 8, std::string(512, 'x')), kIoError);
  EXPECT_EQ(Do(kFlush, 0), kIoError);
  EXPECT_EQ(Do(kZero, 0, Segment(0, 8)), kOk);
  BlkCounters counters = blk_->counters();
  EXPECT_THAT(counters.errors, ElementsAre(Pair(EIO, 2), Pair(ENOSPC, 1)));
  EXPECT_EQ(counters.reads + counters.writes + counters.flushes, 0u);
  EXPECT_EQ(counters.refused, 0u);
  EXPECT_THAT(log_, HasSubstr("blk0: read of 512 bytes at 0 failed: EIO"));
  EXPECT_THAT(log_,
              HasSubstr("blk0: write of 512 bytes at 4096 failed: ENOSPC"));
  EXPECT_EQ(std::count(log_.begin(), log_.end(), '\n'), 2);
  fault_.Fail(DiskOp::Kind::kRead, 0);
  EXPECT_EQ(Do(kIn, 0, "", 512), kOk);
}

// Of a network's disk, say: nobody reset this device.
TEST_F(BlkTest, WhatTheHostCancelledIsAnErrorLikeAnother) {
  StartFaulty();
  fault_.Fail(DiskOp::Kind::kRead, ECANCELED);
  EXPECT_EQ(Do(kIn, 0, "", 512), kIoError);
  EXPECT_THAT(blk_->counters().errors, ElementsAre(Pair(ECANCELED, 1)));
}

TEST_F(BlkTest, SaysWhatKindOfRequestTheHostFailed) {
  StartFaulty();
  fault_.Fail(DiskOp::Kind::kWriteZeroes, ENOSPC);
  EXPECT_EQ(Do(kZero, 0, Segment(0, 8)), kIoError);
  EXPECT_THAT(log_, HasSubstr("blk0: write-zeroes of 4096 bytes at 0 failed"));
}

TEST_F(BlkTest, OneBadSegmentStopsTheRest) {
  StartFaulty();
  fault_.Fail(DiskOp::Kind::kDiscard, EIO);
  EXPECT_EQ(Do(kTrim, 0, Segment(0, 8) + Segment(16, 8)), kIoError);
  EXPECT_EQ(fault_.log().size(), 1u);
}

TEST_F(BlkTest, AShrunkFileGivesErrorsAndStaysShrunk) {
  Start();
  image_.Resize(4096);
  EXPECT_EQ(Do(kIn, 8, "", 512), kIoError);
  EXPECT_EQ(Do(kOut, 8, std::string(512, 'x')), kIoError);
  EXPECT_EQ(Do(kZero, 0, Segment(8, 8)), kIoError);
  EXPECT_EQ(DoRead(0, 4096), content_.substr(0, 4096));
  EXPECT_EQ(image_.Read(0, kSize).size(), 4096u);
  EXPECT_THAT(blk_->counters().errors, ElementsAre(Pair(EIO, 3)));
  EXPECT_THAT(log_, HasSubstr(absl::StrCat("EIO; ", image_.path(),
                                           " ends before that (later")));
}

TEST_F(BlkTest, ResetWaitsForWhatIsInFlight) {
  StartFaulty();
  fault_.Hold();
  Request request = Make(kIn, 0, "", 512);
  Offer(request);
  Offer(Make(kFlush, 0, ""));
  ASSERT_TRUE(fault_.WaitForHeld(2));
  std::promise<void> done;
  std::future<void> finished = done.get_future();
  blk_->Reset([&] { done.set_value(); });
  // Once a later task has run the reset has begun, and must be waiting.
  ASSERT_OK(blk_->UpdateFile({image_.path()}));
  EXPECT_EQ(finished.wait_for(milliseconds(20)), std::future_status::timeout);
  EXPECT_GT(ram_.LeasedBytes(), 0u);
  fault_.Release();
  finished.wait();
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  EXPECT_EQ(Read(request.status), kPending);  // given up, not answered
  EXPECT_FALSE(driver_->queue(0).HasUsed());
  EXPECT_EQ(blk_->counters().in_flight, 0u);
  ASSERT_OK(driver_->Activate());
  EXPECT_EQ(DoRead(0, 512), content_.substr(0, 512));
}

TEST_F(BlkTest, ResetGivesUpZeroesThatHaveNotBegun) {
  StartFaulty();
  fault_.Hold();
  Request read = Make(kIn, 0, "", 512);
  Offer(read);
  Request zero = Make(kZero, 0, Segment(0, 8) + Segment(16, 8));
  Offer(zero);
  Offer(Make(kTrim, 0, Segment(32, 8)));
  ASSERT_TRUE(fault_.WaitForHeld(3));
  std::promise<void> done;
  blk_->Reset([&] { done.set_value(); });
  ASSERT_TRUE(fault_.WaitForHeld(1));  // the read, which is waited for
  fault_.Release();
  done.get_future().wait();
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  EXPECT_EQ(Read(zero.status), kPending);
  EXPECT_EQ(image_.Read(0, kSize), content_);
  EXPECT_EQ(fault_.log().size(), 3u);
  EXPECT_TRUE(blk_->counters().errors.empty());
  EXPECT_EQ(blk_->counters().in_flight, 0u);
}

TEST_F(BlkTest, ResetOfAnInactiveDeviceIsDoneAtOnce) {
  Start();
  ASSERT_TRUE(driver_->Reset());
  EXPECT_TRUE(driver_->Reset());
}

TEST_F(BlkTest, ItsEndWaitsForWhatIsInFlight) {
  Start();
  for (int i = 0; i < 32; ++i) Offer(Make(kOut, 0, std::string(4096, 'x')));
  driver_->Kick(0);
  ASSERT_TRUE(driver_->Reset());
  driver_.reset();
  blk_.reset();
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_F(BlkTest, BreakingTheRulesWhileRequestsAreInFlight) {
  StartFaulty();
  fault_.Hold();
  Offer(Make(kIn, 0, "", 512));
  ASSERT_TRUE(fault_.WaitForHeld(1));
  Request bad = Make(kOut, 0, "");
  bad.buffers.pop_back();
  Offer(bad);
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  fault_.Release();
  ASSERT_TRUE(driver_->Reset());
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  EXPECT_FALSE(driver_->queue(0).HasUsed());
}

TEST_F(BlkTest, HoldsNoMoreRequestsThanItsRingHas) {
  Blk::Options options;
  options.engine_factory = fault_.MakeFactory();
  options.queue_size = 4;
  Start(std::move(options));
  fault_.Hold();
  // One chain, offered again and again without waiting for its return.
  Request flush = Make(kFlush, 0, "");
  std::optional<uint16_t> head = driver_->queue(0).Offer(flush.buffers);
  ASSERT_TRUE(head.has_value());
  for (int i = 0; i < 3; ++i) driver_->queue(0).OfferHead(*head);
  driver_->Kick(0);
  ASSERT_TRUE(fault_.WaitForHeld(4));
  EXPECT_EQ(blk_->counters().in_flight, 4u);
  driver_->queue(0).OfferHead(*head);
  driver_->Kick(0);
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  EXPECT_EQ(QueueErrorOf(*driver_->interrupts().reset_reason()),
            QueueError::kAvailJump);
  fault_.Release();
  ASSERT_TRUE(driver_->Reset());
  EXPECT_EQ(blk_->counters().flushes, 4u);
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_F(BlkTest, TheRateLimiterHoldsRequestsUp) {
  Start(Limited(1));
  EXPECT_EQ(Do(kFlush, 0), kOk);
  Request second = Make(kIn, 0, "", 512);
  Offer(second);
  while (blk_->counters().throttled == 0) std::this_thread::yield();
  EXPECT_EQ(Read(second.status), kPending);
  EXPECT_TRUE(Eventually([this] { return ram_.LeasedBytes() == 0; }));
  ASSERT_OK(blk_->UpdateLimit({std::nullopt, TokenBucketConfig{}}));
  ASSERT_OK(driver_->WaitUsed(0));
  EXPECT_EQ(Read(second.status), kOk);
  EXPECT_EQ(blk_->limit(), RateLimiterConfig());
}

TEST_F(BlkTest, ABandwidthLimitCountsZeroes) {
  Blk::Options options;
  options.limit.bandwidth = {8192, 0, std::chrono::hours(1)};
  Start(std::move(options));
  EXPECT_EQ(Do(kTrim, 0, Segment(512, 64)), kOk);  // no data
  EXPECT_EQ(Do(kZero, 0, Segment(0, 8) + Segment(16, 8)), kOk);
  Offer(Make(kZero, 0, Segment(0, 8)));
  while (blk_->counters().throttled == 0) std::this_thread::yield();
  EXPECT_TRUE(driver_->Reset());
}

TEST_F(BlkTest, ABandwidthLimitCountsBytesOfData) {
  Blk::Options options;
  options.limit.bandwidth = {4096, 0, std::chrono::hours(1)};
  Start(std::move(options));
  EXPECT_EQ(Do(kOut, 0, std::string(4096, 'x')), kOk);
  EXPECT_EQ(Do(kFlush, 0), kOk);  // no data
  Offer(Make(kIn, 0, "", 512));
  while (blk_->counters().throttled == 0) std::this_thread::yield();
  EXPECT_THAT(blk_->UpdateLimit({TokenBucketConfig{1, 0, {}}, {}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_TRUE(driver_->Reset());  // with a request held up
  ASSERT_OK(driver_->Activate());
  EXPECT_EQ(Do(kFlush, 0), kOk);
}

class BlkNoFlushTest : public BlkTest,
                       public ::testing::WithParamInterface<uint64_t> {};

// CONFIG_WCE is bit 11: a cache that can be switched but not flushed is none.
INSTANTIATE_TEST_SUITE_P(ConfigWce, BlkNoFlushTest,
                         ::testing::Values(0, uint64_t{1} << 11));

TEST_P(BlkNoFlushTest, EveryWriteIsDurable) {
  StartFaulty({.features = ~(uint64_t{1} << 9 | GetParam())});
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  EXPECT_EQ(Do(kZero, 0, Segment(8, 8)), kOk);
  ASSERT_EQ(fault_.log().size(), 2u);
  EXPECT_TRUE(fault_.log()[0].durable);
  EXPECT_TRUE(fault_.log()[1].durable);
}

TEST_F(BlkTest, TheDriverSwitchesTheWriteBackCache) {
  StartFaulty();
  EXPECT_EQ(driver_->ReadConfig(32, 1), 1u);
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  Switch(0);
  EXPECT_EQ(driver_->ReadConfig(32, 1), 0u);
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  ASSERT_TRUE(driver_->Reset());
  EXPECT_EQ(driver_->ReadConfig(32, 1), 1u);
  ASSERT_OK(driver_->Activate());
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  std::vector<bool> durable;
  for (const DiskOp& op : fault_.log()) {
    if (op.kind == DiskOp::Kind::kWrite) durable.push_back(op.durable);
  }
  EXPECT_THAT(durable, ElementsAre(false, true, false));
  // Elsewhere, and beyond the end, writes vanish.
  const std::vector<uint8_t> zeros(8, 0);
  blk_->WriteConfig(0, zeros);
  blk_->WriteConfig(UINT64_MAX, zeros);
  EXPECT_EQ(driver_->ReadConfig(0, 8), kSize / 512);
  EXPECT_EQ(driver_->ReadConfig(32, 1), 1u);
  blk_->WriteConfig(30, zeros);
  EXPECT_EQ(driver_->ReadConfig(32, 1), 0u);
}

// Linux sends no flush once it has switched: what it wrote before would stay in
// the host's cache.
TEST_F(BlkTest, TheEndOfTheWriteBackCacheBeginsAFlush) {
  StartFaulty();
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  Switch(1);  // as it was
  fault_.Hold();
  Switch(0);
  ASSERT_TRUE(fault_.WaitForHeld(1));
  EXPECT_EQ(Kinds(), (std::vector{DiskOp::Kind::kWrite, DiskOp::Kind::kFlush}));
  // One in flight at most, however often the driver changes its mind; another
  // for what it may have written meanwhile.
  for (int i = 0; i < 100; ++i) Switch(i % 2 == 0 ? 1 : 0);
  // Once a later task has run the device knows of all that.
  ASSERT_OK(blk_->UpdateFile({image_.path()}));
  ASSERT_TRUE(driver_->interrupts().WaitForConfig(1));
  EXPECT_EQ(fault_.log().size(), 2u);
  fault_.Release();
  EXPECT_TRUE(Eventually([&] { return blk_->counters().flushes == 2; }));
  EXPECT_EQ(Kinds(), (std::vector{DiskOp::Kind::kWrite, DiskOp::Kind::kFlush,
                                  DiskOp::Kind::kFlush}));
  EXPECT_TRUE(Eventually([&] { return blk_->counters().in_flight == 0; }));
}

TEST_F(BlkTest, SwitchesThatItDoesNotSeeApartAreOneFlush) {
  // On its own thread: nothing comes between them.
  const LateQueue::First first = LateQueue::Once([this] {
    for (uint8_t on : {0, 1, 0}) Switch(on);
  });
  FakeDriver::Options with;
  with.wrap = [first](uint16_t, std::unique_ptr<Queue> queue) {
    return std::make_unique<LateQueue>(std::move(queue), first.moment);
  };
  StartFaulty(with);
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  first.done.wait();
  EXPECT_TRUE(Eventually([&] { return blk_->counters().flushes > 0; }));
  EXPECT_EQ(Do(kIn, 0, "", 512), kOk);
  EXPECT_EQ(blk_->counters().flushes, 1u);
}

// An engine may be done before its Commit returns.
TEST_F(BlkTest, AFlushThatIsDoneAtOnceIsNotTheLast) {
  StartFaulty();
  fault_.FinishAtOnce();
  for (uint64_t flushes = 1; flushes <= 3; ++flushes) {
    Switch(1);
    Switch(0);
    ASSERT_TRUE(
        Eventually([&] { return blk_->counters().flushes == flushes; }));
  }
  EXPECT_TRUE(Eventually([&] { return blk_->counters().in_flight == 0; }));
}

// The device's own flush does not cover them.
TEST_F(BlkTest, WritesUnderWayAtTheSwitchAreFlushedBeforeTheyAreAnswered) {
  using Kind = DiskOp::Kind;
  StartFaulty();
  std::vector<Kind> expected;
  auto run = [&](const Request& request, uint8_t writeback,
                 std::vector<Kind> kinds) {
    Switch(1);
    fault_.Hold();
    Offer(request);
    ASSERT_TRUE(fault_.WaitForHeld(1));
    Switch(0);
    ASSERT_TRUE(fault_.WaitForHeld(2));
    Switch(writeback);
    fault_.Release();
    ASSERT_OK(driver_->WaitUsed(0));
    EXPECT_TRUE(Eventually([&] { return blk_->counters().in_flight == 0; }));
    expected.insert(expected.end(), kinds.begin(), kinds.end());
    EXPECT_EQ(Kinds(), expected);
  };
  const Request write = Make(kOut, 0, std::string(512, 'x'));
  run(write, 0, {Kind::kWrite, Kind::kFlush, Kind::kFlush});
  EXPECT_EQ(Read(write.status), kOk);
  run(Make(kZero, 0, Segment(0, 8)), 0,
      {Kind::kWriteZeroes, Kind::kFlush, Kind::kFlush});
  run(Make(kTrim, 0, Segment(0, 8)), 0,
      {Kind::kDiscard, Kind::kFlush, Kind::kFlush});
  run(Make(kIn, 0, "", 512), 0, {Kind::kRead, Kind::kFlush});
  run(Make(kFlush, 0, ""), 0, {Kind::kFlush, Kind::kFlush});
  // There and back: the driver flushes again.
  run(Make(kOut, 0, std::string(512, 'x')), 1, {Kind::kWrite, Kind::kFlush});
  // The answer is the flush's.
  fault_.Fail(Kind::kFlush, EIO);
  const Request lost = Make(kOut, 8, std::string(512, 'x'));
  run(lost, 0, {Kind::kWrite, Kind::kFlush, Kind::kFlush});
  EXPECT_EQ(Read(lost.status), kIoError);
  EXPECT_EQ(blk_->counters().writes, 2u);
}

// What it was to make durable is lost: a later write must not seem to cover it.
TEST_F(BlkTest, WhenItsOwnFlushFailedNoDurableWriteSucceeds) {
  StartFaulty();
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  fault_.Fail(DiskOp::Kind::kFlush, EIO);
  Switch(0);
  EXPECT_TRUE(Eventually([&] { return !blk_->counters().errors.empty(); }));
  fault_.Fail(DiskOp::Kind::kFlush, 0);
  EXPECT_EQ(Do(kOut, 8, std::string(512, 'x')), kIoError);
  EXPECT_EQ(Do(kZero, 0, Segment(16, 8)), kIoError);
  EXPECT_EQ(Do(kIn, 0, "", 512), kOk);
  Switch(1);
  EXPECT_EQ(Do(kOut, 8, std::string(512, 'x')), kOk);
  EXPECT_EQ(Do(kFlush, 0), kIoError);
}

TEST_F(BlkTest, ASwitchWithoutTheFeatureFlushesNothing) {
  StartFaulty({.features = ~(uint64_t{1} << 11)});
  Switch(0);
  ASSERT_OK(blk_->UpdateFile({image_.path()}));
  ASSERT_TRUE(driver_->interrupts().WaitForConfig(1));
  EXPECT_TRUE(fault_.log().empty());
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  EXPECT_FALSE(fault_.log()[0].durable);
}

TEST_F(BlkTest, WhoCannotFlushFindsAWriteThroughCache) {
  StartFaulty({.features = ~(uint64_t{1} << 9)});
  EXPECT_EQ(driver_->ReadConfig(32, 1), 0u);
}

TEST_F(BlkTest, AnnouncesANewSize) {
  Start();
  image_.Resize(2 * kSize);
  EXPECT_EQ(Do(kIn, kSize / 512, "", 512), kIoError);
  ASSERT_OK(blk_->UpdateFile({image_.path()}));
  ASSERT_TRUE(driver_->interrupts().WaitForConfig(1));
  EXPECT_EQ(driver_->ReadConfig(0, 8), 2 * kSize / 512);
  EXPECT_EQ(blk_->size(), 2 * kSize);
  EXPECT_EQ(Do(kIn, kSize / 512, "", 512), kOk);
}

TEST_F(BlkTest, TakesAnotherImage) {
  StartFaulty();
  DiskTestFile other(DiskTestPattern(kSize / 2, 9));
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  ASSERT_OK(blk_->UpdateFile({other.path()}));
  ASSERT_TRUE(driver_->interrupts().WaitForConfig(1));
  EXPECT_EQ(driver_->ReadConfig(0, 8), kSize / 1024);
  EXPECT_EQ(blk_->file().path, other.path());
  EXPECT_EQ(DoRead(0, 512), DiskTestPattern(kSize / 2, 9).substr(0, 512));
  EXPECT_EQ(Do(kIn, kSize / 1024, "", 512), kIoError);
  // What was written to the first one is not forgotten.
  ASSERT_GE(fault_.log().size(), 2u);
  EXPECT_EQ(fault_.log()[1].kind, DiskOp::Kind::kFlush);
  EXPECT_EQ(image_.Read(0, 512), std::string(512, 'x'));
  // It is not locked any more.
  EXPECT_OK(DiskFile::Open({image_.path()}));
}

// The driver's next flush is of the new image.
TEST_F(BlkTest, WritesUnderWayAtAChangeOfImagesAreFlushed) {
  StartFaulty();
  DiskTestFile other(kSize);
  fault_.Hold();
  Request request = Make(kOut, 0, std::string(512, 'x'));
  Offer(request);
  ASSERT_TRUE(fault_.WaitForHeld(1));
  ASSERT_OK(blk_->UpdateFile({other.path()}));
  ASSERT_TRUE(fault_.WaitForHeld(2));
  fault_.Release();
  ASSERT_OK(driver_->WaitUsed(0));
  EXPECT_EQ(Read(request.status), kOk);
  EXPECT_EQ(Kinds(), (std::vector{DiskOp::Kind::kWrite, DiskOp::Kind::kFlush,
                                  DiskOp::Kind::kFlush}));
  EXPECT_EQ(Do(kOut, 0, std::string(512, 'x')), kOk);
  EXPECT_EQ(Kinds().size(), 4u);
}

TEST_F(BlkTest, AReadOnlyDiskTakesOnlyReadOnlyImages) {
  Blk::Options options;
  options.file = {image_.path(), /*read_only=*/true};
  Start(std::move(options));
  DiskTestFile other(DiskTestPattern(kSize / 2, 9));
  EXPECT_THAT(blk_->UpdateFile({other.path()}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("keeps a disk read-only")));
  ASSERT_OK(blk_->UpdateFile({other.path(), /*read_only=*/true}));
  ASSERT_TRUE(driver_->interrupts().WaitForConfig(1));
  EXPECT_EQ(DoRead(0, 512), DiskTestPattern(kSize / 2, 9).substr(0, 512));
  EXPECT_EQ(blk_->counters().flushes, 0u);
}

TEST_F(BlkTest, TheSameImageOpenedOtherwiseIsInTheWay) {
  Start();
  // Locked by the device itself, or without O_DIRECT there.
  EXPECT_FALSE(blk_->UpdateFile({image_.path(), false, /*direct=*/true}).ok());
  EXPECT_FALSE(blk_->file().direct);
}

TEST_F(BlkTest, RefusesImagesThatDoNotFit) {
  Start();
  DiskTestFile other(kSize);
  EXPECT_THAT(blk_->UpdateFile({other.path(), /*read_only=*/true}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("keeps a disk writable")));
  EXPECT_THAT(blk_->UpdateFile({"/nonexistent"}),
              StatusIs(absl::StatusCode::kNotFound));
  image_.Resize(100);
  EXPECT_THAT(blk_->UpdateFile({image_.path()}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("no multiple of 512")));
  EXPECT_EQ(blk_->file().path, image_.path());
  EXPECT_EQ(blk_->size(), kSize);
}

TEST_F(BlkTest, ServesSeveralQueues) {
  Blk::Options options;
  options.queues = 2;
  Start(std::move(options));
  for (uint16_t queue : {0, 1, 1, 0}) {
    Request request = Make(kIn, queue, "", 512);
    EXPECT_EQ(Do(request, queue), kOk);
    EXPECT_EQ(ram_.String(request.data, 512),
              content_.substr(queue * 512, 512));
  }
}

TEST_F(BlkTest, DirectDisksBounceWhatIsMisaligned) {
  Blk::Options options;
  options.file = {image_.path(), false, true};
  if (!DiskFile::Open(options.file).ok()) {
    GTEST_SKIP() << "no O_DIRECT in " << ::testing::TempDir();
  }
  Start(std::move(options));
  const uint64_t block = driver_->ReadConfig(20, 4);
  // More than one bounce buffer, at an odd address.
  const uint32_t size = 2 * BlkTask::kBounceSize + block;
  GuestAddress data = *ram_.AllocPages(size / 4096 + 2).Plus(3);
  const std::string bytes = DiskTestPattern(size, 4);
  ram_.Write(data, bytes);
  GuestAddress status = StatusByte();
  std::vector<Buffer> write = {
      {Header(kOut, 0), 16, false}, {data, size, false}, {status, 1, true}};
  ASSERT_OK(driver_->Run(0, write));
  EXPECT_EQ(Read(status), kOk);
  EXPECT_EQ(image_.Read(0, size), bytes);
  ram_.Write(data, std::string(size, '\0'));
  std::vector<Buffer> read = {
      {Header(kIn, 0), 16, false}, {data, size, true}, {status, 1, true}};
  ASSERT_OK(driver_->Run(0, read));
  EXPECT_EQ(Read(status), kOk);
  EXPECT_EQ(ram_.String(data, size), bytes);
  EXPECT_EQ(blk_->counters().bounced, 2u);
  // At a good address, but of bad lengths.
  GuestAddress split = ram_.AllocPages(2);
  std::vector<Buffer> halves = {{Header(kIn, 0), 16, false},
                                {split, 100, true},
                                {*split.Plus(4096), 3996, true},
                                {status, 1, true}};
  ASSERT_OK(driver_->Run(0, halves));
  EXPECT_EQ(ram_.String(split, 100), bytes.substr(0, 100));
  EXPECT_EQ(ram_.String(*split.Plus(4096), 3996), bytes.substr(100, 3996));
  EXPECT_EQ(blk_->counters().bounced, 3u);
  // Aligned buffers go straight through.
  GuestAddress pages = ram_.AllocPages(2);
  std::vector<Buffer> aligned = {
      {Header(kIn, 0), 16, false}, {pages, 4096, true}, {status, 1, true}};
  ASSERT_OK(driver_->Run(0, aligned));
  EXPECT_EQ(ram_.String(pages, 4096), bytes.substr(0, 4096));
  EXPECT_EQ(blk_->counters().bounced, 3u);
}

}  // namespace
}  // namespace cloister::devices::virtio
