// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_queue.h"

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using base::StatusIs;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Priority = ConversionQueue::Priority;
using Turn = ConversionQueue::Turn;

GuestRange Pages(uint64_t first, uint64_t count) {
  return *GuestRange::Create(GuestAddress(first * kPageSize),
                             count * kPageSize);
}

// A request on a thread of its own. It notes its name once it has its turn,
// keeps it until Leave(), and then has a result.
class Request {
 public:
  Request(ConversionQueue* queue, std::vector<std::string>* order,
          base::Mutex* mutex, std::string name, std::vector<GuestRange> ranges,
          Priority priority)
      : result_(std::async(std::launch::async, [=, this] {
          absl::StatusOr<Turn> turn = queue->Enter(ranges, priority);
          if (!turn.ok()) return turn.status();
          {
            base::MutexLock lock(mutex);
            order->push_back(name);
          }
          has_turn_.store(true);
          may_leave_.get_future().wait();
          return absl::OkStatus();
        })) {}

  bool has_turn() const { return has_turn_.load(); }
  void WaitForTurn() {
    while (!has_turn()) std::this_thread::yield();
  }
  absl::Status Leave() {
    may_leave_.set_value();
    return result_.get();
  }
  // For a request that is to fail.
  absl::Status result() { return result_.get(); }

 private:
  std::atomic<bool> has_turn_{false};
  std::promise<void> may_leave_;
  std::future<absl::Status> result_;  // last: its thread uses the others
};

class ConversionQueueTest : public ::testing::Test {
 protected:
  // Starts a request that is expected to have to wait, and waits for that.
  std::unique_ptr<Request> Waits(const std::string& name,
                                 std::vector<GuestRange> ranges,
                                 Priority priority = Priority::kGuest) {
    const size_t before = queue_.waiting();
    auto request = Start(name, std::move(ranges), priority);
    while (queue_.waiting() == before) std::this_thread::yield();
    return request;
  }
  std::unique_ptr<Request> HasTurn(const std::string& name,
                                   std::vector<GuestRange> ranges,
                                   Priority priority = Priority::kGuest) {
    auto request = Start(name, std::move(ranges), priority);
    request->WaitForTurn();
    return request;
  }
  std::unique_ptr<Request> Start(const std::string& name,
                                 std::vector<GuestRange> ranges,
                                 Priority priority) {
    return std::make_unique<Request>(&queue_, &order_, &mutex_, name,
                                     std::move(ranges), priority);
  }
  std::vector<std::string> order() {
    base::MutexLock lock(&mutex_);
    return order_;
  }

  ConversionQueue queue_;
  base::Mutex mutex_;
  std::vector<std::string> order_;
};

TEST_F(ConversionQueueTest, OverlappingRequestsHaveTheirTurnsInOrder) {
  auto first = HasTurn("first", {Pages(0, 4)});
  auto second = Waits("second", {Pages(3, 4)});
  auto third = Waits("third", {Pages(6, 4)});
  EXPECT_THAT(order(), ElementsAre("first"));
  // The third has no page in common with the first, but with who came before.
  EXPECT_OK(first->Leave());
  second->WaitForTurn();
  EXPECT_FALSE(third->has_turn());
  EXPECT_OK(second->Leave());
  third->WaitForTurn();
  EXPECT_OK(third->Leave());
  EXPECT_THAT(order(), ElementsAre("first", "second", "third"));
  EXPECT_EQ(queue_.waiting(), 0u);
}

TEST_F(ConversionQueueTest, OthersPass) {
  auto first = HasTurn("first", {Pages(0, 4), Pages(20, 1)});
  auto waits = Waits("waits", {Pages(10, 1), Pages(20, 4)});
  auto passes = HasTurn("passes", {Pages(4, 6), Pages(11, 9), Pages(30, 1)});
  EXPECT_FALSE(waits->has_turn());
  EXPECT_OK(passes->Leave());
  EXPECT_OK(first->Leave());
  waits->WaitForTurn();
  EXPECT_OK(waits->Leave());
}

TEST_F(ConversionQueueTest, PauseWaitsForThoseUnderWayAndHoldsUpTheRest) {
  auto first = HasTurn("first", {Pages(0, 1)});
  auto pause = std::async(std::launch::async, [&] { queue_.Pause(); });
  while (!queue_.paused()) std::this_thread::yield();
  auto second = Waits("second", {Pages(5, 1)});
  EXPECT_EQ(pause.wait_for(std::chrono::seconds(0)),
            std::future_status::timeout);
  EXPECT_OK(first->Leave());
  pause.get();
  queue_.Pause();
  queue_.Resume();
  EXPECT_TRUE(queue_.paused());
  EXPECT_FALSE(second->has_turn());
  queue_.Resume();
  EXPECT_FALSE(queue_.paused());
  second->WaitForTurn();
  EXPECT_OK(second->Leave());
}

TEST_F(ConversionQueueTest, ARequestForNoPagesWaitsForPausesAlone) {
  auto all = HasTurn("all", {Pages(0, 100)});
  EXPECT_OK(HasTurn("none", {})->Leave());
  EXPECT_OK(all->Leave());
  queue_.Pause();
  auto waits = Waits("waits", {});
  EXPECT_EQ(queue_.held(), 1u);
  EXPECT_OK(HasTurn("inner", {Pages(0, 100)}, Priority::kInner)->Leave());
  queue_.Resume();
  waits->WaitForTurn();
  EXPECT_OK(HasTurn("passes", {Pages(0, 100)})->Leave());
  EXPECT_OK(waits->Leave());
}

TEST_F(ConversionQueueTest, AResumeTooManyDoesNothing) {
  queue_.Resume();
  queue_.Pause();
  EXPECT_TRUE(queue_.paused());
  EXPECT_THAT(
      queue_.Enter(std::vector<GuestRange>{Pages(0, 1)}, Priority::kHost)
          .status(),
      StatusIs(absl::StatusCode::kUnavailable));
  queue_.Resume();
  EXPECT_OK(queue_.Enter(std::vector<GuestRange>{Pages(0, 1)}, Priority::kHost)
                .status());
}

TEST_F(ConversionQueueTest, InnerWorkPassesPauseShutdownAndThoseWhoWait) {
  auto first = HasTurn("first", {Pages(0, 1)});
  auto waits = Waits("waits", {Pages(0, 2)});
  auto passes = HasTurn("passes", {Pages(1, 2)}, Priority::kInner);
  // Those under way it waits for, and who comes later waits for it.
  auto inner = Waits("inner", {Pages(2, 4)}, Priority::kInner);
  auto later = Waits("later", {Pages(5, 1)});
  EXPECT_OK(first->Leave());
  EXPECT_FALSE(waits->has_turn());
  EXPECT_OK(passes->Leave());
  inner->WaitForTurn();
  EXPECT_FALSE(later->has_turn());
  EXPECT_OK(inner->Leave());
  later->WaitForTurn();
  waits->WaitForTurn();
  EXPECT_OK(waits->Leave());
  EXPECT_OK(later->Leave());
  queue_.Pause();
  EXPECT_OK(HasTurn("paused", {Pages(0, 1)}, Priority::kInner)->Leave());
  queue_.Shutdown(absl::CancelledError("over"));
  EXPECT_OK(HasTurn("shut down", {Pages(0, 1)}, Priority::kInner)->Leave());
  EXPECT_THAT(order(),
              ElementsAre("first", "passes", _, _, _, "paused", "shut down"));
}

TEST_F(ConversionQueueTest, PauseDoesNotWaitForInnerWork) {
  auto inner = HasTurn("inner", {Pages(0, 1)}, Priority::kInner);
  queue_.Pause();
  EXPECT_OK(inner->Leave());
}

TEST_F(ConversionQueueTest, TryingToEnterNeverWaits) {
  auto guest = HasTurn("guest", {Pages(0, 2)});
  EXPECT_FALSE(queue_.TryEnterInner(Pages(1, 1)).has_value());
  auto waits = Waits("waits", {Pages(1, 4)});
  // As all inner work it passes those who wait.
  std::optional<Turn> turn = queue_.TryEnterInner(Pages(4, 1));
  ASSERT_TRUE(turn.has_value());
  EXPECT_FALSE(queue_.TryEnterInner(Pages(4, 1)).has_value());
  EXPECT_OK(guest->Leave());
  EXPECT_FALSE(waits->has_turn()) << "the turn excludes others";
  turn.reset();
  waits->WaitForTurn();
  EXPECT_OK(waits->Leave());
  // A try that failed has left nothing behind.
  EXPECT_EQ(queue_.waiting(), 0u);
  queue_.Pause();
  EXPECT_TRUE(queue_.TryEnterInner(Pages(0, 8)).has_value());
}

TEST_F(ConversionQueueTest, CancellingEndsTheWaitsAndNothingElse) {
  auto first = HasTurn("first", {Pages(0, 1)});
  auto guest = Waits("guest", {Pages(0, 1)});
  auto host = Waits("host", {Pages(0, 1)}, Priority::kHost);
  auto inner = Waits("inner", {Pages(0, 1)}, Priority::kInner);
  queue_.CancelWaiting(absl::AbortedError("reset"));
  EXPECT_THAT(guest->result(), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(host->result(), StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(queue_.waiting(), 1u);
  EXPECT_OK(first->Leave());
  inner->WaitForTurn();
  EXPECT_OK(inner->Leave());
  // Who comes later is not meant.
  EXPECT_OK(HasTurn("later", {Pages(0, 1)})->Leave());
  EXPECT_THAT(order(), ElementsAre("first", "inner", "later"));
}

TEST_F(ConversionQueueTest, ShutdownEndsWaitsForEverAndTheFirstOneCounts) {
  auto first = HasTurn("first", {Pages(0, 1)});
  auto guest = Waits("guest", {Pages(0, 1)});
  queue_.Shutdown(absl::InternalError("broken"));
  queue_.Shutdown(absl::CancelledError("over"));
  EXPECT_THAT(guest->result(), StatusIs(absl::StatusCode::kInternal));
  EXPECT_OK(first->Leave());
  for (Priority priority : {Priority::kGuest, Priority::kHost}) {
    EXPECT_THAT(
        queue_.Enter(std::vector<GuestRange>{Pages(9, 1)}, priority).status(),
        StatusIs(absl::StatusCode::kInternal));
  }
}

TEST_F(ConversionQueueTest, ShutdownEndsADelay) {
  auto delay = std::async(std::launch::async,
                          [&] { return queue_.Delay(std::chrono::hours(1)); });
  queue_.Shutdown(absl::CancelledError("over"));
  EXPECT_FALSE(delay.get());
  EXPECT_FALSE(queue_.Delay(std::chrono::hours(1)));
}

TEST_F(ConversionQueueTest, ADelayIsNotEndedByOtherEvents) {
  const auto start = std::chrono::steady_clock::now();
  auto delay = std::async(std::launch::async, [&] {
    return queue_.Delay(std::chrono::milliseconds(5));
  });
  while (delay.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    EXPECT_OK(HasTurn("other", {Pages(0, 1)})->Leave());
  }
  EXPECT_TRUE(delay.get());
  EXPECT_GE(std::chrono::steady_clock::now() - start,
            std::chrono::milliseconds(5));
}

TEST_F(ConversionQueueTest, AMovedTurnEndsOnce) {
  const std::vector<GuestRange> range = {Pages(0, 1)};
  std::optional<Turn> kept;
  {
    absl::StatusOr<Turn> turn = queue_.Enter(range, Priority::kGuest);
    ASSERT_OK(turn);
    kept.emplace(*std::move(turn));
  }
  auto waits = Waits("waits", range);
  EXPECT_THAT(order(), IsEmpty());
  kept.reset();
  waits->WaitForTurn();
  EXPECT_OK(waits->Leave());
}

// No two turns on one page at once, whatever the threads do.
TEST_F(ConversionQueueTest, ExcludesUnderLoad) {
  constexpr int kThreads = 4;
  constexpr uint64_t kPages = 16;
  std::vector<uint64_t> unguarded(kPages);  // a race would be seen, or lost
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (uint64_t round = 0; round < 300; ++round) {
        const uint64_t first = (round * 7 + i * 5) % kPages;
        const uint64_t count = 1 + round % (kPages - first);
        const GuestRange range = Pages(first, count);
        absl::StatusOr<Turn> turn = queue_.Enter(
            {&range, 1}, round % 9 == 0 ? Priority::kInner : Priority::kGuest);
        ASSERT_OK(turn);
        for (uint64_t p = first; p < first + count; ++p) ++unguarded[p];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t got = 0;
  uint64_t want = 0;
  for (uint64_t count : unguarded) got += count;
  for (uint64_t i = 0; i < kThreads; ++i) {
    for (uint64_t round = 0; round < 300; ++round) {
      want += 1 + round % (kPages - (round * 7 + i * 5) % kPages);
    }
  }
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace cloister::memory
