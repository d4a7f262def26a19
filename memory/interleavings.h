// SPDX-License-Identifier: Apache-2.0
//
// Runs tasks in every order that their steps can take (test only).
#ifndef CLOISTER_MEMORY_INTERLEAVINGS_H_
#define CLOISTER_MEMORY_INTERLEAVINGS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "cloister/base/mutex.h"

namespace cloister::memory {

// Each task has a thread, but only one runs at a time, and another takes over
// only where a task calls Step() or Wait(). Which one is a choice; Explore()
// tries all sequences of choices, depth first, with no more than
// `max_preemptions` of them taking the turn from a task that could go on.
//
// Tasks must do the same if the choices are the same. What they share needs no
// further synchronisation.
class Interleavings {
 public:
  static constexpr int kUnbounded = 1 << 30;

  explicit Interleavings(int max_preemptions = kUnbounded)
      : max_preemptions_(max_preemptions) {}

  // Runs all of `tasks` again and again, and `finished` after each time, until
  // that returns false or no order is left. Returns how often.
  uint64_t Explore(const std::vector<std::function<void()>>& tasks,
                   const std::function<bool()>& finished) {
    choices_.clear();
    for (uint64_t runs = 1;; ++runs) {
      RunOnce(tasks);
      if (!finished() || !NextOrder()) return runs;
    }
  }

  // Before each access to what tasks share. Does nothing outside of a task.
  static void Step() {
    if (current_ != nullptr) current_->Yield();
  }
  // Waits until `ready()`. False if that would be for ever: no task can go on.
  static bool Wait(std::function<bool()> ready) {
    return current_->YieldUntil(std::move(ready));
  }

 private:
  struct Runner {
    base::CondVar turn;
    std::function<bool()> ready;  // null: nothing to wait for
    bool gave_up = false;
    bool done = false;
  };
  struct Choice {
    size_t taken;
    size_t count;
  };
  static constexpr size_t kNobody = ~size_t{0};

  void RunOnce(const std::vector<std::function<void()>>& tasks) {
    runners_.clear();
    for (size_t i = 0; i < tasks.size(); ++i) {
      runners_.push_back(std::make_unique<Runner>());
    }
    depth_ = 0;
    preemptions_ = 0;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < tasks.size(); ++i) {
      threads.emplace_back([this, i, &task = tasks[i]] { Run(i, task); });
    }
    {
      base::MutexLock lock(&mutex_);
      turn_ = kNobody;
      PassTurn();
    }
    for (std::thread& thread : threads) thread.join();
  }

  void Run(size_t self, const std::function<void()>& task) {
    current_ = this;
    self_ = self;
    {
      base::MutexLock lock(&mutex_);
      while (turn_ != self) runners_[self]->turn.Wait(&mutex_);
    }
    task();
    base::MutexLock lock(&mutex_);
    runners_[self]->done = true;
    PassTurn();
  }

  void Yield() {
    base::MutexLock lock(&mutex_);
    PassTurn();
    while (turn_ != self_) runners_[self_]->turn.Wait(&mutex_);
  }

  bool YieldUntil(std::function<bool()> ready) {
    Runner& self = *runners_[self_];
    {
      base::MutexLock lock(&mutex_);
      self.ready = std::move(ready);
    }
    Yield();
    base::MutexLock lock(&mutex_);
    self.ready = nullptr;
    return !std::exchange(self.gave_up, false);
  }

  void PassTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<size_t> able = Able();
    if (able.empty()) {
      const size_t waiting = FirstWaiting();
      if (waiting == kNobody) {
        turn_ = kNobody;
        return;
      }
      runners_[waiting]->gave_up = true;
      able.push_back(waiting);
    }
    // Going on is the first choice, so only others are preemptions.
    auto me = std::find(able.begin(), able.end(), turn_);
    const bool could_go_on = me != able.end();
    if (could_go_on) {
      std::rotate(able.begin(), me, me + 1);
      if (preemptions_ >= max_preemptions_) able.resize(1);
    }
    const size_t choice = Choose(able.size());
    if (could_go_on && choice != 0) ++preemptions_;
    turn_ = able[choice];
    runners_[turn_]->turn.Signal();
  }

  std::vector<size_t> Able() const {
    std::vector<size_t> able;
    for (size_t i = 0; i < runners_.size(); ++i) {
      const Runner& runner = *runners_[i];
      if (!runner.done && (!runner.ready || runner.ready())) able.push_back(i);
    }
    return able;
  }
  size_t FirstWaiting() const {
    for (size_t i = 0; i < runners_.size(); ++i) {
      if (!runners_[i]->done) return i;
    }
    return kNobody;
  }

  size_t Choose(size_t count) {
    if (count == 1) return 0;
    if (depth_ == choices_.size()) choices_.push_back({0, count});
    return choices_[depth_++].taken;
  }
  bool NextOrder() {
    while (!choices_.empty() &&
           ++choices_.back().taken == choices_.back().count) {
      choices_.pop_back();
    }
    return !choices_.empty();
  }

  static inline thread_local Interleavings* current_ = nullptr;
  static inline thread_local size_t self_ = 0;

  const int max_preemptions_;
  base::Mutex mutex_;
  std::vector<std::unique_ptr<Runner>> runners_;
  size_t turn_ ABSL_GUARDED_BY(mutex_) = kNobody;
  std::vector<Choice> choices_;
  size_t depth_ = 0;
  int preemptions_ = 0;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_INTERLEAVINGS_H_
