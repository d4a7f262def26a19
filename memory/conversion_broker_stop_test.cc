// SPDX-License-Identifier: Apache-2.0
//
// What ends or holds up requests, and what they find then: shutdown between two
// chunks, pauses, a VM that must stop, and giving back all that a balloon took.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/conversion_world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;
using Method = FakeBackend::Method;
using World = ConversionWorld;

constexpr uint64_t kToShared = World::kToShared;
constexpr uint64_t kToPrivate = World::kToPrivate;
constexpr uint64_t kChunk = World::kChunk;

GuestRange Range(uint64_t start, uint64_t size) {
  return World::Range(start, size);
}

// Holds up the first call that changes attributes until told to go on.
class Gate {
 public:
  explicit Gate(World* world) {
    world->backend.during_set = [this](const GuestRange&, PageState) {
      if (!first_.exchange(false)) return;
      entered_.set_value();
      leave_.get_future().wait();
    };
  }
  void WaitUntilReached() { entered_.get_future().wait(); }
  void Open() { leave_.set_value(); }

 private:
  std::promise<void> entered_;
  std::promise<void> leave_;
  std::atomic<bool> first_{true};
};

std::future<GuestConversion> Later(World& world, const GuestRange& range,
                                   uint64_t attributes) {
  return std::async(std::launch::async, [&world, range, attributes] {
    return world.Guest(range, attributes);
  });
}

void WaitForQueued(World& world, uint64_t requests) {
  while (world.broker->stats().queued != requests) std::this_thread::yield();
}

TEST(ConversionBrokerStopTest, ShutdownStopsARequestBetweenTwoChunks) {
  World world;
  world.Fill(1);
  Gate gate(&world);
  auto request = Later(world, Range(0x8000, 6 * kChunk), kToShared);
  gate.WaitUntilReached();
  world.broker->Shutdown();
  gate.Open();
  const GuestConversion result = request.get();
  EXPECT_EQ(result.code, GuestConversionCode::kFailed);
  EXPECT_THAT(result.detail, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(result.bytes_changed, kChunk);
  EXPECT_TRUE(world.states.IsWholly(Range(0x8000, kChunk), PageState::kShared));
  EXPECT_TRUE(world.states.IsWholly(Range(0x8000 + kChunk, 5 * kChunk),
                                    PageState::kPrivate));
  // What was not begun has its content.
  EXPECT_EQ(world.Read(0x8000 + kChunk), 0x8001u + kChunk);
  EXPECT_EQ(world.broker->stats().shared_bytes, kChunk);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerStopTest, ShutdownDoesNotStopAReset) {
  World world;
  const GuestRange range = Range(0x8000, 6 * kChunk);
  ASSERT_EQ(world.Guest(range, kToShared).code, GuestConversionCode::kOk);
  world.broker->Shutdown();
  ASSERT_OK(world.broker->Reset());
  EXPECT_TRUE(world.states.IsWholly(range, PageState::kPrivate));
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerStopTest, PauseWaitsForTheRequestUnderWayAlone) {
  std::atomic<int> told{0};
  ConversionBrokerOptions options;
  options.on_held = [&] { ++told; };
  World world(std::move(options));
  Gate gate(&world);
  auto under_way = Later(world, Range(0x8000, 2 * kChunk), kToShared);
  gate.WaitUntilReached();
  std::vector<std::future<GuestConversion>> queued;
  for (uint64_t i = 0; i < 3; ++i) {
    queued.push_back(Later(world, Range(0x8000, 4 * kChunk),
                           i % 2 == 0 ? kToPrivate : kToShared));
    WaitForQueued(world, i + 1);
  }
  EXPECT_EQ(told, 0);
  auto pause = std::async(std::launch::async, [&] { world.broker->Pause(); });
  const GuestRange other = Range(0x20000, kPageSize);
  while (!absl::IsUnavailable(
      world.Host(other, PageState::kPrivate, HostConversionReason::kGivenUp)
          .status())) {
    std::this_thread::yield();
  }
  // Whoever comes while it is paused waits, and is told of.
  queued.push_back(Later(world, other, kToShared));
  WaitForQueued(world, 4);
  EXPECT_EQ(told, 1);
  gate.Open();
  pause.get();
  EXPECT_EQ(under_way.get().code, GuestConversionCode::kOk);
  EXPECT_EQ(world.broker->held(), queued.size());
  EXPECT_TRUE(
      world.states.IsWholly(Range(0x8000, 2 * kChunk), PageState::kShared));
  world.broker->Resume();
  for (auto& request : queued) {
    EXPECT_EQ(request.get().code, GuestConversionCode::kOk);
  }
  EXPECT_EQ(world.broker->held(), 0u);
  EXPECT_TRUE(
      world.states.IsWholly(Range(0x8000, 4 * kChunk), PageState::kPrivate));
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerStopTest, WhatTheRateDelaysIsHeldToo) {
  ConversionBrokerOptions options;
  options.policy.per_second = 1;
  options.policy.burst = 1;
  std::chrono::steady_clock::time_point now;
  options.now = [&] { return now; };
  std::atomic<int> told{0};
  options.on_held = [&] { ++told; };
  World world(std::move(options));
  world.broker->Pause();
  // The first waits for its turn, the others in the delay.
  std::vector<std::future<GuestConversion>> requests;
  for (uint64_t i = 0; i < 4; ++i) {
    requests.push_back(Later(world, Range(0x8000, kPageSize), kToShared));
    while (world.broker->held() <= i) std::this_thread::yield();
  }
  EXPECT_GT(world.broker->stats().delayed, 0u);
  EXPECT_LT(world.broker->stats().queued, 4u);
  EXPECT_GE(told, 4);
  world.broker->Shutdown();
  for (auto& request : requests) {
    EXPECT_EQ(request.get().code, GuestConversionCode::kFailed);
  }
}

// A pause that finds them in the delay counts them, so they stay.
TEST(ConversionBrokerStopTest, WhatIsRefusedIsHeldToo) {
  ConversionBrokerOptions options;
  options.policy.per_second = 1;
  options.policy.burst = 1;
  options.now = [] {
    return std::chrono::steady_clock::time_point(std::chrono::hours(1));
  };
  std::promise<void> delay_ends;
  std::shared_future<void> end = delay_ends.get_future().share();
  options.delay = [end](std::chrono::nanoseconds) { end.wait(); };
  World world(std::move(options));
  // Takes the only token there is.
  ASSERT_EQ(world.Guest(Range(0x8000, kPageSize), kToShared).code,
            GuestConversionCode::kOk);
  const uint64_t bad[][3] = {
      {0x8000, 1, 0x20},                    // a reserved bit
      {0x8001, 1, kToShared},               // misaligned
      {0x8000, 0, kToShared},               // empty
      {0x8000, UINT64_MAX, kToShared},      // wraps
      {World::kEnd, 1, kToPrivate},         // no RAM
      {World::kAliasedEnd, 64, kToShared},  // half of it
  };
  std::vector<std::future<GuestConversion>> requests;
  for (const auto& arguments : bad) {
    requests.push_back(std::async(std::launch::async, [&world, &arguments] {
      return world.broker->ConvertForGuest(arguments[0], arguments[1],
                                           arguments[2]);
    }));
  }
  while (world.broker->stats().delayed != requests.size()) {
    std::this_thread::yield();
  }
  world.broker->Pause();
  delay_ends.set_value();
  for (auto& request : requests) {
    // Each is in the queue sooner or later, unless it was let through.
    const auto let_through = [&] {
      return request.wait_for(std::chrono::seconds(0)) ==
             std::future_status::ready;
    };
    while (world.broker->held() != requests.size() && !let_through()) {
      std::this_thread::yield();
    }
    EXPECT_FALSE(let_through());
  }
  EXPECT_EQ(world.broker->stats().refused, 0u);
  world.broker->Resume();
  for (auto& request : requests) {
    EXPECT_EQ(request.get().code, GuestConversionCode::kInvalid);
  }
  EXPECT_EQ(world.broker->stats().refused, requests.size());
  EXPECT_EQ(world.broker->held(), 0u);
}

TEST(ConversionBrokerStopTest, TheReasonIsKnownBeforeAnyWaitEnds) {
  ConversionBrokerOptions options;
  std::promise<std::future<GuestConversion>*> waits;
  std::atomic<bool> ended_early{false};
  World* its = nullptr;
  options.on_fatal = [&](const absl::Status&) {
    auto* waiter = waits.get_future().get();
    ended_early = waiter->wait_for(std::chrono::milliseconds(200)) ==
                  std::future_status::ready;
    // As a VM does that ends.
    its->broker->Shutdown();
  };
  World world(std::move(options));
  its = &world;
  Gate gate(&world);
  world.backend.FailCalls(Method::kSet, 0, 2, absl::InternalError("broken"));
  auto breaks = Later(world, Range(0x8000, kChunk), kToShared);
  gate.WaitUntilReached();
  auto waiter = Later(world, Range(0x8000, 2 * kPageSize), kToShared);
  WaitForQueued(world, 1);
  waits.set_value(&waiter);
  gate.Open();
  EXPECT_EQ(breaks.get().code, GuestConversionCode::kFailed);
  const GuestConversion result = waiter.get();
  EXPECT_FALSE(ended_early);
  // With the reason, whoever else shuts down meanwhile.
  EXPECT_THAT(result.detail,
              StatusIs(absl::StatusCode::kInternal, HasSubstr("undoing")));
  EXPECT_THAT(world.broker->fatal(), StatusIs(absl::StatusCode::kInternal));
}

// Many more pieces than one batch of ranges has.
class ManyPieces {
 public:
  static constexpr uint64_t kPages = 16 * ConversionSet::kMaxRanges;

  ManyPieces() {
    std::vector<MemoryRegion> regions;
    regions.push_back(
        MemoryRegion::Create(
            GuestAddress(0),
            HostMapping::CreateMemfd("ram", kPages * kPageSize, {}).value())
            .value());
    memory.emplace(GuestMemory::Create(std::move(regions)).value());
    view = SharedView::Create(&*memory, &states).value();
    broker =
        ConversionBroker::Create(&states, &backend, view.get(), {}).value();
    EXPECT_OK(broker->AddRam(All(), PageState::kPrivate));
    broker->GuestStarted();
  }
  static GuestRange All() { return Range(0, kPages * kPageSize); }
  // Every other page.
  std::vector<GuestRange> Odd() const {
    std::vector<GuestRange> pages;
    for (uint64_t page = 1; page < kPages; page += 2) {
      pages.push_back(World::Page(page * kPageSize));
    }
    return pages;
  }

  FakeBackend backend{ConversionContent::kLost, kPageSize, nullptr};
  PageStateMap states;
  std::optional<GuestMemory> memory;
  std::unique_ptr<SharedView> view;
  std::unique_ptr<ConversionBroker> broker;
};

// What is replaced in a map while it is walked is kept: so nobody converts
// while walking it.
TEST(ConversionBrokerStopTest, GivingAllBackKeepsNoOldMaps) {
  ManyPieces world;
  ASSERT_OK(world.broker->GuestGaveUp(ManyPieces::All()));
  ASSERT_OK(world.broker
                ->ConvertForHost(world.Odd(), PageState::kShared,
                                 HostConversionReason::kGivenUp)
                .status());
  const size_t before = world.states.memory_bytes();
  size_t most = 0;
  world.backend.during_set = [&](const GuestRange&, PageState) {
    most = std::max(most, world.states.memory_bytes());
  };
  ASSERT_OK(world.broker->GuestTookBackAll());
  EXPECT_TRUE(world.states.IsWholly(ManyPieces::All(), PageState::kPrivate));
  EXPECT_GT(most, 0u);
  EXPECT_LT(most, before + (size_t{1} << 20));
  // It is the guest's again.
  EXPECT_THAT(world.broker->ConvertForHost(world.Odd(), PageState::kShared,
                                           HostConversionReason::kGivenUp),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(ConversionBrokerStopTest, EachOfManyPiecesComesBackAsItWas) {
  ManyPieces world;
  for (const GuestRange& page : world.Odd()) {
    ASSERT_EQ(world.broker->ConvertForGuest(page.start().value(), 1, 0).code,
              GuestConversionCode::kOk);
  }
  ASSERT_OK(world.broker->GuestGaveUp(ManyPieces::All()));
  ASSERT_OK(world.broker->FreeGivenUp(ManyPieces::All()));
  const GuestRange all = ManyPieces::All();
  ASSERT_OK(world.broker
                ->ConvertForHost({&all, 1}, PageState::kShared,
                                 HostConversionReason::kGivenUp)
                .status());
  ASSERT_OK(world.broker->GuestTookBack(all));
  for (uint64_t page = 0; page < ManyPieces::kPages; ++page) {
    ASSERT_EQ(world.states.Get(GuestAddress(page * kPageSize)),
              page % 2 == 1 ? PageState::kShared : PageState::kPrivate)
        << page;
  }
}

}  // namespace
}  // namespace cloister::memory
