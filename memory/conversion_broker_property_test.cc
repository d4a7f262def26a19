// SPDX-License-Identifier: Apache-2.0
//
// Random requests of a guest, its devices and the host on many threads, against
// naive models. CLOISTER_TEST_SEED and CLOISTER_TEST_OPS repeat (as far as
// threads can) or prolong a run.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/conversion_world.h"
#include "gtest/gtest.h"

namespace cloister::memory {

class SharedViewTestPeer {
 public:
  static LeaseTable& Leases(SharedView* view) { return view->leases(); }
};

namespace {

using World = ConversionWorld;
using Method = FakeBackend::Method;
using Random = std::mt19937_64;

constexpr PageState kShared = PageState::kShared;
constexpr PageState kPrivate = PageState::kPrivate;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  uint64_t value;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

PageState Other(PageState state) {
  return state == kShared ? kPrivate : kShared;
}

// Pages [first, end).
struct Stripe {
  uint64_t first;
  uint64_t end;

  GuestRange Pick(Random& random) const {
    const uint64_t start = first + random() % (end - first);
    const uint64_t count = 1 + random() % (end - start);
    return World::Range(start * kPageSize, count * kPageSize);
  }
};

// Everybody converts here; the rest of RAM has one owner for each page.
constexpr Stripe kContended = {4, 16};
constexpr Stripe kGuests[] = {{16, 28}, {28, 40}, {40, 52}};
constexpr Stripe kBalloon = {52, 64};

// Keeps the state of each page by what listeners are told. As requests for the
// same page are served one after another, so are their commits.
class CommitModel : public ConversionListener {
 public:
  absl::string_view name() const override { return "model"; }
  absl::Status Prepare(const ConversionSet& set) override {
    base::MutexLock lock(&mutex_);
    ForPages(set, [&](PageState& state) {
      mutex_.AssertHeld();
      if (state == set.to) wrong_ = "prepared a page that is so already";
    });
    return absl::OkStatus();
  }
  void Rollback(const ConversionSet&) noexcept override {}
  void Commit(const ConversionSet& part) noexcept override {
    base::MutexLock lock(&mutex_);
    ForPages(part, [&](PageState& state) {
      mutex_.AssertHeld();
      if (state == part.to) wrong_ = "committed a page that is so already";
      state = part.to;
    });
  }
  // What differs from the map in RAM; "" if nothing does.
  std::string Compare(const PageStateMap& map) {
    base::MutexLock lock(&mutex_);
    for (uint64_t at = World::kAliasedEnd; at < World::kEnd; at += kPageSize) {
      auto it = pages_.find(at);
      const PageState want = it == pages_.end() ? kPrivate : it->second;
      if (map.Get(GuestAddress(at)) != want) {
        return absl::StrCat("page ", at, " should be ", PageStateName(want));
      }
    }
    return wrong_;
  }

 private:
  template <typename Visit>
  void ForPages(const ConversionSet& set, Visit visit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const GuestRange& range : set.ranges) {
      for (uint64_t done = 0; done < range.size(); done += kPageSize) {
        const uint64_t at = range.start().value() + done;
        visit(pages_.try_emplace(at, at >= World::kWindow ? kShared : kPrivate)
                  .first->second);
      }
    }
  }
  base::Mutex mutex_;
  std::map<uint64_t, PageState> pages_ ABSL_GUARDED_BY(mutex_);
  std::string wrong_ ABSL_GUARDED_BY(mutex_);
};

// What the only owner of some pages expects of them.
class OwnModel {
 public:
  explicit OwnModel(const Stripe& stripe) : stripe_(stripe) { Clear(); }

  const Stripe& stripe() const { return stripe_; }
  void Clear() { pages_.assign(stripe_.end - stripe_.first, {}); }

  PageState Get(uint64_t page) const { return At(page).state; }
  // The first `bytes` of what has to change in `range` does.
  void Convert(const GuestRange& range, PageState to, uint64_t bytes) {
    for (uint64_t page : Pages(range)) {
      if (At(page).state == to || bytes == 0) continue;
      At(page) = {to, 0, false};
      bytes -= kPageSize;
    }
  }
  // What was written there may be lost.
  void Lose(const GuestRange& range) {
    for (uint64_t page : Pages(range)) At(page).written = false;
  }
  uint64_t Changing(const GuestRange& range, PageState to) {
    uint64_t bytes = 0;
    for (uint64_t page : Pages(range)) {
      if (At(page).state != to) bytes += kPageSize;
    }
    return bytes;
  }
  // The owner writes to a private page and remembers it. What it shares, the
  // devices overwrite.
  void Write(World& world, uint64_t page, uint64_t value) {
    if (At(page).state != kPrivate) return;
    world.backend.GuestWrite(GuestAddress(page * kPageSize), value);
    At(page).content = value;
    At(page).written = true;
  }
  std::string Compare(World& world) {
    for (uint64_t page = stripe_.first; page < stripe_.end; ++page) {
      const Page& want = At(page);
      if (world.State(page * kPageSize) != want.state) {
        return absl::StrCat("page ", page, " should be ",
                            PageStateName(want.state));
      }
      if (want.written && world.Read(page * kPageSize) != want.content) {
        return absl::StrCat("page ", page, " lost what the guest wrote");
      }
    }
    return "";
  }

 private:
  struct Page {
    PageState state = kPrivate;
    uint64_t content = 0;
    bool written = false;
  };
  static std::vector<uint64_t> Pages(const GuestRange& range) {
    std::vector<uint64_t> pages;
    for (uint64_t done = 0; done < range.size(); done += kPageSize) {
      pages.push_back((range.start().value() + done) / kPageSize);
    }
    return pages;
  }
  Page& At(uint64_t page) { return pages_[page - stripe_.first]; }
  const Page& At(uint64_t page) const { return pages_[page - stripe_.first]; }

  const Stripe stripe_;
  std::vector<Page> pages_;
};

// A vCPU, on a thread.
class GuestThread {
 public:
  GuestThread(World* world, const Stripe& stripe, uint64_t seed)
      : world_(*world), model_(stripe), random_(seed) {}

  OwnModel& model() { return model_; }

  void Run(uint64_t operations) {
    for (uint64_t i = 0; i < operations && !::testing::Test::HasFailure();
         ++i) {
      switch (random_() % 8) {
        case 0:
          Contend();
          break;
        case 1:
          StaleFault();
          break;
        case 2:
        case 3:
          Fault();
          break;
        case 4:
          ASSERT_EQ(model_.Compare(world_), "");
          break;
        default:
          Hypercall(model_.stripe().Pick(random_),
                    random_() % 2 == 0 ? kShared : kPrivate);
      }
      model_.Write(world_, RandomPage(), random_() | 1);
    }
  }

 private:
  uint64_t RandomPage() {
    const Stripe& own = model_.stripe();
    return own.first + random_() % (own.end - own.first);
  }
  static uint64_t Attributes(PageState to) {
    return to == kShared ? World::kToShared : World::kToPrivate;
  }

  void Hypercall(const GuestRange& range, PageState to) {
    const uint64_t changing = model_.Changing(range, to);
    GuestConversion done = world_.Guest(range, Attributes(to));
    if (done.code == GuestConversionCode::kOk) {
      EXPECT_EQ(done.bytes_changed, changing);
    } else {
      EXPECT_EQ(done.code, GuestConversionCode::kFailed);
      EXPECT_LT(done.bytes_changed, changing);
    }
    model_.Convert(range, to, done.bytes_changed);
  }

  // As a vCPU does: goes on until the access works.
  void Fault() {
    const uint64_t page = RandomPage();
    const PageState wanted = Other(model_.Get(page));
    for (;;) {
      FaultConversion done = world_.Fault(page * kPageSize, wanted);
      if (world_.State(page * kPageSize) == wanted) {
        EXPECT_EQ(done.action, FaultAction::kResume);
        model_.Convert(World::Page(page * kPageSize), wanted, kPageSize);
        return;
      }
      if (done.action == FaultAction::kFail) return;  // told to
      ASSERT_EQ(done.action, FaultAction::kResume);
    }
  }

  // The page changed to what the fault wants and back: it must not again.
  void StaleFault() {
    const uint64_t page = RandomPage();
    const GuestRange range = World::Page(page * kPageSize);
    const uint64_t generation = world_.states.CurrentGeneration();
    const PageState before = model_.Get(page);
    Hypercall(range, Other(before));
    if (model_.Get(page) == before) return;
    Hypercall(range, before);
    if (model_.Get(page) != before) return;
    model_.Write(world_, page, random_() | 1);
    EXPECT_EQ(
        world_.broker->ConvertForFault(range.start(), Other(before), generation)
            .action,
        FaultAction::kResume);
    ASSERT_EQ(model_.Compare(world_), "");
  }

  void Contend() {
    const GuestRange range = kContended.Pick(random_);
    const PageState to = random_() % 2 == 0 ? kShared : kPrivate;
    if (random_() % 3 == 0) {
      world_.Fault(range.start().value(), to);
    } else {
      GuestConversion done = world_.Guest(range, Attributes(to));
      EXPECT_LE(done.bytes_changed, range.size());
    }
  }

  World& world_;
  OwnModel model_;
  Random random_;
};

// The balloon, the host that takes what is in it, and the guest that does not
// keep to what it gave up.
class HostThread {
 public:
  HostThread(World* world, uint64_t seed)
      : world_(*world), model_(kBalloon), random_(seed) {}

  OwnModel& model() { return model_; }

  void Run(uint64_t operations) {
    for (uint64_t i = 0; i < operations && !::testing::Test::HasFailure();
         ++i) {
      const GuestRange range = kBalloon.Pick(random_);
      EXPECT_OK(world_.broker->GuestGaveUp(range));
      model_.Lose(range);
      Convert(range, HostConversionReason::kGivenUp);
      Convert(World::Window(), HostConversionReason::kExchangeWindow);
      if (random_() % 2 == 0) Use(kBalloon.Pick(random_));
      // What fails can be tried again, and the pages come back as they were, or
      // as the guest has made them.
      while (!world_.broker->GuestTookBack(range).ok()) {
      }
      ASSERT_EQ(model_.Compare(world_), "");
      EXPECT_FALSE(
          world_.Host(range, kShared, HostConversionReason::kGivenUp).ok());
    }
  }

 private:
  // Hypercalls of the guest, in the balloon or not, and a write.
  void Use(const GuestRange& range) {
    const PageState to = random_() % 2 == 0 ? kShared : kPrivate;
    while (
        world_
            .Guest(range, to == kShared ? World::kToShared : World::kToPrivate)
            .code != GuestConversionCode::kOk) {
    }
    model_.Convert(range, to, UINT64_MAX);
    model_.Write(world_, range.start().value() / kPageSize, random_() | 1);
    EXPECT_FALSE(
        world_.Host(range, Other(to), HostConversionReason::kGivenUp).ok());
  }

  void Convert(const GuestRange& range, HostConversionReason reason) {
    const PageState to = random_() % 2 == 0 ? kShared : kPrivate;
    absl::Status status = world_.Host(range, to, reason).status();
    while (absl::IsUnavailable(status)) {  // paused
      std::this_thread::yield();
      status = world_.Host(range, to, reason).status();
    }
    if (status.ok()) {
      EXPECT_TRUE(world_.states.IsWholly(range, to));
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;  // told to
    }
  }

  World& world_;
  OwnModel model_;
  Random random_;
};

// A device: what it holds a lease on keeps what it wrote there.
void RunDevice(World& world, uint64_t seed, const std::atomic<bool>& stop) {
  Random random(seed);
  const Stripe all = {World::kAliasedEnd / kPageSize, World::kEnd / kPageSize};
  while (!stop.load()) {
    const GuestRange range = all.Pick(random);
    absl::StatusOr<Lease> lease = world.view->Acquire(range);
    if (!lease.ok()) continue;
    auto pages = [&](auto visit) {
      for (uint64_t done = 0; done < range.size(); done += kPageSize) {
        visit(*range.start().Plus(done));
      }
    };
    pages([&](GuestAddress page) {
      world.backend.Back(BackingSide::kShared, page, page.value() | 1);
    });
    for (uint64_t i = random() % 8; i > 0; --i) std::this_thread::yield();
    pages([&](GuestAddress page) {
      EXPECT_EQ(world.backend.Get(page).shared, page.value() | 1)
          << "freed under a lease";
    });
  }
}

// What else goes on beside requests.
void RunUpkeep(World& world, uint64_t seed, const std::atomic<bool>& stop) {
  constexpr Method kMayFail[] = {Method::kReserve, Method::kFreeShared,
                                 Method::kFreePrivate, Method::kFind};
  Random random(seed);
  FaultListener passing("passing", nullptr);
  while (!stop.load()) {
    switch (random() % 5) {
      case 0:
        world.backend.FailCalls(kMayFail[random() % 4], random() % 20, 1,
                                absl::ResourceExhaustedError("told to"));
        break;
      case 1: {
        auto report = world.broker->Reconcile();
        if (report.ok()) {
          EXPECT_EQ(report->freed_bytes, 0u);
        }
        break;
      }
      case 2:
        world.broker->Pause();
        std::this_thread::yield();
        world.broker->Resume();
        break;
      case 3:
        world.broker->stats();
        break;
      case 4:
        world.broker->AddListener(&passing);
        world.broker->RemoveListener(&passing);
        break;
    }
  }
}

class ConversionBrokerPropertyTest : public ::testing::Test {
 protected:
  void Build(Random& random) {
    ConversionBrokerOptions options = World::WithWindow();
    options.lease_wait = std::chrono::microseconds(20);
    world_ = World::Silent(std::move(options));
    world_->broker->AddListener(&commits_);
    for (const Stripe& stripe : kGuests) {
      guests_.push_back(
          std::make_unique<GuestThread>(world_.get(), stripe, random()));
    }
    host_ = std::make_unique<HostThread>(world_.get(), random());
  }

  void RunAll(Random& random, uint64_t operations) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> others;
    for (int i = 0; i < 2; ++i) {
      others.emplace_back(
          [&, seed = random()] { RunDevice(*world_, seed, stop); });
    }
    others.emplace_back(
        [&, seed = random()] { RunUpkeep(*world_, seed, stop); });
    std::vector<std::thread> guests;
    for (auto& guest : guests_) {
      guests.emplace_back([&] { guest->Run(operations); });
    }
    guests.emplace_back([&] { host_->Run(operations / 4); });
    for (std::thread& thread : guests) thread.join();
    stop.store(true);
    for (std::thread& thread : others) thread.join();
    world_->backend.FailNothing();
  }

  void CheckAll() {
    // No device is left: what was pending goes.
    while (world_->broker->stats().pending_private_bytes != 0) {
      std::this_thread::yield();
    }
    EXPECT_FALSE(SharedViewTestPeer::Leases(world_->view.get())
                     .AnyLeased(World::Range(0, World::kEnd)));
    EXPECT_OK(world_->broker->fatal());
    EXPECT_EQ(world_->broker->stats().queued, 0u);
    for (auto& guest : guests_) EXPECT_EQ(guest->model().Compare(*world_), "");
    EXPECT_EQ(host_->model().Compare(*world_), "");
    EXPECT_EQ(commits_.Compare(world_->states), "");
    EXPECT_EQ(world_->Wrong(), "");
  }

  // Requests that wait are cut off, and do nothing.
  void Reset() {
    world_->broker->Pause();
    auto fault = std::async(std::launch::async, [&] {
      return world_->Fault(0x8000, Other(world_->State(0x8000))).action;
    });
    auto guest = std::async(std::launch::async, [&] {
      return world_->Guest(World::Range(0x8000, 0x10000), World::kToShared)
          .code;
    });
    while (world_->broker->stats().queued != 2) std::this_thread::yield();
    ASSERT_OK(world_->broker->Reset());
    EXPECT_EQ(fault.get(), FaultAction::kResume);
    EXPECT_EQ(guest.get(), GuestConversionCode::kFailed);
    world_->broker->Resume();
    for (auto& own : guests_) own->model().Clear();
    host_->model().Clear();
    EXPECT_TRUE(world_->states.IsWholly(
        World::Range(World::kAliasedEnd, World::kEnd - World::kAliasedEnd),
        kPrivate));
    EXPECT_EQ(world_->broker->CountDoubleBacked()->double_backed_bytes(), 0u);
    ASSERT_OK(world_->broker->BeginLaunch());
    ASSERT_OK(world_->broker->FinishLaunch({}));
  }

  // Whether each kind of event came up; else the models have proved little.
  bool SawAll() {
    const ConversionStats stats = world_->broker->stats();
    return stats.stale_faults > 0 && stats.to_shared[0].bytes > 0 &&
           stats.to_shared[1].bytes > 0 && stats.to_shared[2].bytes > 0 &&
           stats.failed > 0 && stats.pending_private > 0;
  }

  CommitModel commits_;
  std::unique_ptr<World> world_;
  std::vector<std::unique_ptr<GuestThread>> guests_;
  std::unique_ptr<HostThread> host_;
};

TEST_F(ConversionBrokerPropertyTest, AgreesWithTheModels) {
  const uint64_t seed =
      FromEnvironment("CLOISTER_TEST_SEED", std::random_device()());
  const uint64_t total = FromEnvironment("CLOISTER_TEST_OPS", 15000);
  std::cout << "CLOISTER_TEST_SEED=" << seed << " CLOISTER_TEST_OPS=" << total
            << std::endl;
  Random random(seed);
  Build(random);
  constexpr uint64_t kRound = 500;  // of each guest thread
  const uint64_t rounds = 1 + total / (kRound * std::size(kGuests));
  // On a busy machine some threads hardly run: more rounds, but not for ever.
  for (uint64_t i = 0; i < rounds || (!SawAll() && i < 20 * rounds); ++i) {
    RunAll(random, kRound);
    CheckAll();
    if (random() % 2 == 0) Reset();
    CheckAll();
    if (HasFailure()) return;
  }
  EXPECT_TRUE(SawAll());
}

}  // namespace
}  // namespace cloister::memory
