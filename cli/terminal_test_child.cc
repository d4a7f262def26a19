// SPDX-License-Identifier: Apache-2.0
//
// A console on stdio for terminal_test, which runs it on a pseudo-terminal.
// Says "ready raw" or "ready plain", then what it gets: "in 61" for an "a".
// Some keys are ways out of the process. With an argument it takes signals on
// its loop.

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/event_loop.h"
#include "cloister/cli/raw_mode.h"
#include "cloister/cli/signal_set.h"
#include "cloister/cli/terminal.h"

namespace cloister::cli {
namespace {

// Deeper than any stack, in a way that compilers do not see through.
int Overflow(int depth) {
  volatile char frame[4096];
  frame[0] = static_cast<char>(depth);
  if (depth == 0) return 0;
  return Overflow(depth - 1) + frame[0];
}

class Child {
 public:
  int Run(bool graceful) {
    auto loop = base::EventLoop::Create();
    if (!loop.ok()) return 91;
    loop_ = loop->get();
    std::unique_ptr<SignalSet> signals;
    if (graceful) {
      auto created =
          SignalSet::Create({SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT});
      if (!created.ok()) return 90;
      signals = std::move(*created);
    }
    Terminal::Options options;
    options.on_input = [this](absl::Span<const uint8_t> bytes) {
      for (uint8_t byte : bytes) OnKey(byte);
      return bytes.size();
    };
    options.on_quit = [this] {
      Say("quit\n");
      loop_->Stop();
    };
    options.on_break = [this] { Say("break\n"); };
    auto terminal = Terminal::Create(*loop_, std::move(options));
    if (!terminal.ok()) return 92;
    terminal_ = terminal->get();
    if (graceful) {
      if (!signals->Register(*loop_, [this](int s) { OnSignal(s); }).ok()) {
        return 93;
      }
    }
    SayState("ready");
    return loop_->Run().ok() ? exit_code_ : 94;
  }

 private:
  void Say(absl::string_view text) {
    terminal_->Write(absl::MakeConstSpan(
        reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }
  void SayState(absl::string_view what) {
    Say(absl::StrCat(what, RawMode::active() ? " raw\n" : " plain\n"));
  }

  void OnSignal(int signal) {
    switch (signal) {
      case SIGTSTP:
        terminal_->Suspend();
        return SayState("resumed");
      case SIGCONT:
        terminal_->OnContinue();
        return SayState("continued");
      default:
        Say(absl::StrCat("signal ", signal, "\n"));
        loop_->Stop();
    }
  }

  void OnKey(uint8_t key) {
    Say(absl::StrCat("in ", absl::Hex(key, absl::kZeroPad2), "\n"));
    switch (key) {
      case 'S':
        ::raise(SIGSEGV);
        break;
      case 'N': {
        volatile uintptr_t nowhere = 16;
        *reinterpret_cast<volatile int*>(nowhere) = 1;
        break;
      }
      case 'A':
        std::abort();
      case 'T':
        std::terminate();
      case 'E':
        std::exit(3);
      case 'K':
        std::quick_exit(4);
      case 'R':
        exit_code_ = 5;
        loop_->Stop();
        break;
      case 'O':
        exit_code_ = Overflow(1 << 30);
        break;
      default:
        break;
    }
  }

  base::EventLoop* loop_ = nullptr;
  Terminal* terminal_ = nullptr;
  int exit_code_ = 0;
};

}  // namespace
}  // namespace cloister::cli

int main(int argc, char**) {
  ::signal(SIGPIPE, SIG_IGN);
  return cloister::cli::Child().Run(argc > 1);
}
