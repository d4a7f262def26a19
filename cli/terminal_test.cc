// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/terminal.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "absl/strings/string_view.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/pty_session.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using base::UniqueFd;

constexpr char kCtrlA = 1;
constexpr char kCtrlC = 3;

// ---- terminal_test_child on a pseudo-terminal ----

class PtyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("TERMINAL_TEST_CHILD");
    ASSERT_NE(path, nullptr) << "set TERMINAL_TEST_CHILD to the helper";
    path_ = path;
    ASSERT_OK_AND_ASSIGN(pty_, PtySession::Create());
  }

  // Starts the helper as the session's leader, in the foreground.
  void Start(bool graceful) {
    std::vector<std::string> argv = {path_};
    if (graceful) argv.push_back("graceful");
    ASSERT_OK(pty_->Start(argv));
    Expect("ready raw\r\n");
    EXPECT_FALSE(pty_->restored());
  }

  void Expect(absl::string_view marker) { ASSERT_OK(pty_->Expect(marker)); }
  void Type(absl::string_view text) { ASSERT_OK(pty_->Type(text)); }

  void ExpectExit(int code) {
    ASSERT_OK_AND_ASSIGN(const int status, pty_->Wait());
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == code)
        << "wait status " << status;
    EXPECT_TRUE(pty_->restored());
  }
  void ExpectKilledBy(int signal) {
    ASSERT_OK_AND_ASSIGN(const int status, pty_->Wait());
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal)
        << "wait status " << status;
    EXPECT_TRUE(pty_->restored());
  }
  // A crash, which a sanitizer may report and turn into an exit code.
  void ExpectCrash(int signal) {
    ASSERT_OK_AND_ASSIGN(const int status, pty_->Wait());
    EXPECT_TRUE((WIFSIGNALED(status) && WTERMSIG(status) == signal) ||
                (WIFEXITED(status) && WEXITSTATUS(status) != 0))
        << "wait status " << status;
    EXPECT_TRUE(pty_->restored());
  }

  std::string path_;
  std::unique_ptr<PtySession> pty_;
};

TEST_F(PtyTest, CtrlAXQuits) {
  Start(/*graceful=*/true);
  Type({"ab", 2});
  Expect("in 61\r\nin 62\r\n");
  Type({&kCtrlA, 1});
  Type("x");
  Expect("quit");
  ExpectExit(0);
}

TEST_F(PtyTest, OtherCommands) {
  Start(/*graceful=*/true);
  const char keys[] = {kCtrlA, kCtrlA, kCtrlA, 'b', kCtrlA, 'h', kCtrlA, 'x'};
  Type({keys, sizeof(keys)});
  Expect("break");
  Expect("Ctrl-A x");
  Expect("in 01");
  ExpectExit(0);
}

TEST_F(PtyTest, ControlKeysGoToTheGuest) {
  Start(/*graceful=*/true);
  const char keys[] = {kCtrlC, 0x1a, 0x1c, 0x13, 0x11, 0x04, '\r', 0x7f};
  Type({keys, sizeof(keys)});
  Expect(
      "in 03\r\nin 1a\r\nin 1c\r\nin 13\r\nin 11\r\nin 04\r\nin 0d\r\n"
      "in 7f\r\n");
  Type("R");
  ExpectExit(5);
}

TEST_F(PtyTest, SignalsOnTheLoopEndCleanly) {
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
    Start(/*graceful=*/true);
    pty_->Signal(signal);
    Expect("signal " + std::to_string(signal));
    ExpectExit(0);
  }
}

TEST_F(PtyTest, SignalsWithoutALoopStillRestore) {
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM, SIGXCPU,
                     SIGUSR1, SIGUSR2, SIGPWR, SIGSTKFLT}) {
    Start(/*graceful=*/false);
    pty_->Signal(signal);
    ExpectKilledBy(signal);
  }
}

TEST_F(PtyTest, CrashesRestore) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's runtime has handlers of its own for crashes";
#endif
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS}) {
    Start(/*graceful=*/true);
    pty_->Signal(signal);
    ExpectCrash(signal);
  }
  for (auto [key, signal] : {std::pair<const char*, int>{"S", SIGSEGV},
                             {"N", SIGSEGV},
                             {"A", SIGABRT},
                             {"T", SIGABRT},
                             {"O", SIGSEGV}}) {
    SCOPED_TRACE(key);
    Start(/*graceful=*/true);
    Type(key);
    ExpectCrash(signal);
  }
}

TEST_F(PtyTest, ExitsRestore) {
  Start(/*graceful=*/true);
  Type("E");
  ExpectExit(3);
  Start(/*graceful=*/true);
  Type("K");
  ExpectExit(4);
  Start(/*graceful=*/true);
  Type("R");
  ExpectExit(5);
}

TEST_F(PtyTest, HangupEndsInputAndTheProcess) {
  Start(/*graceful=*/true);
  pty_->HangUp();
  ASSERT_OK_AND_ASSIGN(const int status, pty_->Wait());
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// ---- Job control ----

class JobTest : public PtyTest {
 protected:
  using Command = PtySession::Command;

  void StartInBackground() { ASSERT_OK(pty_->StartJob({path_, "graceful"})); }
  void Tell(Command command) { ASSERT_OK(pty_->Tell(command)); }
};

TEST_F(JobTest, BackgroundLeavesTheTerminalAlone) {
  StartInBackground();
  Expect("ready plain");
  EXPECT_TRUE(pty_->restored());
  Type("typed at the shell\n");
  pty_->Signal(SIGTERM);
  Expect("signal 15");
  Tell(Command::kAwaitEnd);
  ExpectExit(0);
}

TEST_F(JobTest, ForegroundTakesTheTerminalAndBackgroundExitDoesNotStop) {
  StartInBackground();
  Expect("ready plain");
  Tell(Command::kForeground);
  pty_->Signal(SIGCONT);
  Expect("continued raw");
  EXPECT_FALSE(pty_->restored());
  Type("a");
  Expect("in 61");
  Tell(Command::kBackground);
  // Restoring from the background must neither fail nor stop it (SIGTTOU).
  pty_->Signal(SIGTERM);
  Tell(Command::kAwaitEnd);
  ExpectExit(0);
}

TEST_F(JobTest, StopRestoresAndContinueTakesAgain) {
  StartInBackground();
  Expect("ready plain");
  Tell(Command::kForeground);
  pty_->Signal(SIGCONT);
  Expect("continued raw");
  pty_->Signal(SIGTSTP);
  Tell(Command::kAwaitStop);
  EXPECT_TRUE(pty_->restored());
  pty_->Signal(SIGCONT);
  Expect("resumed raw");
  Type("a");
  Expect("in 61");
  // Stopped without a chance to restore, and continued in the background.
  pty_->Signal(SIGSTOP);
  Tell(Command::kAwaitStop);
  Tell(Command::kBackground);
  pty_->Signal(SIGCONT);
  Expect("continued raw");
  pty_->Signal(SIGHUP);
  Expect("signal 1");
  Tell(Command::kAwaitEnd);
  ExpectExit(0);
}

// ---- Pipes, files and sockets, in this process ----

class StreamTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::signal(SIGPIPE, SIG_IGN);  // As the program's main does.
    ASSERT_OK_AND_ASSIGN(loop_, base::EventLoop::Create());
    MakePipe(&in_read_, &in_write_);
    MakePipe(&out_read_, &out_write_);
  }
  static void MakePipe(UniqueFd* read_end, UniqueFd* write_end) {
    int fds[2];
    ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    read_end->reset(fds[0]);
    write_end->reset(fds[1]);
  }
  Terminal::Options MakeOptions() {
    Terminal::Options options;
    options.input_fd = in_read_.get();
    options.output_fd = out_write_.get();
    options.on_input = [this](absl::Span<const uint8_t> bytes) {
      const size_t taken = std::min(appetite_, bytes.size());
      input_.append(bytes.begin(), bytes.begin() + taken);
      appetite_ -= taken;
      return taken;
    };
    return options;
  }
  void Create(Terminal::Options options) {
    ASSERT_OK_AND_ASSIGN(terminal_,
                         Terminal::Create(*loop_, std::move(options)));
  }
  void Feed(absl::string_view text) {
    ASSERT_EQ(::write(in_write_.get(), text.data(), text.size()),
              static_cast<ssize_t>(text.size()));
  }
  size_t Write(absl::string_view text) {
    return terminal_->Write(absl::MakeConstSpan(
        reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }
  // Runs the loop until `done`, asked after each turn.
  void RunUntil(std::function<bool()> done) {
    done_ = std::move(done);
    loop_->Post([this] { Ask(); });
    ASSERT_OK(loop_->Run());
    ASSERT_OK_AND_ASSIGN(std::unique_ptr<base::EventLoop> next,
                         base::EventLoop::Create());
    terminal_.reset();
    loop_ = std::move(next);
  }
  void Ask() {
    if (done_()) return loop_->Stop();
    loop_->Post([this] { Ask(); });
  }

  std::unique_ptr<base::EventLoop> loop_;
  UniqueFd in_read_, in_write_, out_read_, out_write_;
  std::unique_ptr<Terminal> terminal_;
  std::function<bool()> done_;
  std::string input_;
  size_t appetite_ = SIZE_MAX;
};

TEST_F(StreamTest, PipePassesEveryByteUntilItsEnd) {
  Create(MakeOptions());
  Feed({"a\1x\3\0b", 6});
  in_write_.reset();
  RunUntil([this] { return !terminal_->input_open(); });
  EXPECT_EQ(input_, std::string("a\1x\3\0b", 6));
}

TEST_F(StreamTest, RelayedInputObeysCommandsIfAsked) {
  Terminal::Options options = MakeOptions();
  options.always_parse_escapes = true;
  bool quit = false;
  options.on_quit = [&] { quit = true; };
  Create(std::move(options));
  appetite_ = 0;  // Even while the guest takes nothing.
  Feed("abc\1x");
  RunUntil([&] { return quit; });
  EXPECT_EQ(input_, "");
}

TEST_F(StreamTest, SlowGuestLosesNothing) {
  Create(MakeOptions());
  std::string all;
  for (int i = 0; i < 20000; ++i) all += static_cast<char>('a' + i % 23);
  appetite_ = 0;
  std::thread writer([&] {
    size_t at = 0;
    while (at < all.size()) {
      const ssize_t size =
          ::write(in_write_.get(), all.data() + at, all.size() - at);
      ASSERT_GT(size, 0);
      at += static_cast<size_t>(size);
    }
    in_write_.reset();
  });
  RunUntil([this] {
    appetite_ = 13;
    // Notices may come at any time, and more than one.
    terminal_->ResumeInput();
    terminal_->ResumeInput();
    return !terminal_->input_open();
  });
  writer.join();
  EXPECT_EQ(input_, all);
}

TEST_F(StreamTest, FilesAndDevNullAndNothing) {
  char name[] = "terminal_test.XXXXXX";
  const std::string pattern = ::testing::TempDir() + "/" + name;
  std::vector<char> path(pattern.begin(), pattern.end());
  path.push_back('\0');
  UniqueFd file(::mkstemp(path.data()));
  ASSERT_TRUE(file.valid());
  ::unlink(path.data());
  std::string all(3000, 'f');
  all += "end";
  ASSERT_EQ(::write(file.get(), all.data(), all.size()),
            static_cast<ssize_t>(all.size()));
  ::lseek(file.get(), 0, SEEK_SET);
  in_read_ = std::move(file);
  Create(MakeOptions());
  RunUntil([this] {
    appetite_ = 100;
    terminal_->ResumeInput();
    terminal_->ResumeInput();
    return !terminal_->input_open();
  });
  EXPECT_EQ(input_, all);

  in_read_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Create(MakeOptions());
  RunUntil([this] { return !terminal_->input_open(); });

  Terminal::Options closed = MakeOptions();
  closed.input_fd = -1;
  Create(std::move(closed));
  EXPECT_FALSE(terminal_->input_open());
}

TEST_F(StreamTest, ClosedOutputIsAnError) {
  Terminal::Options options = MakeOptions();
  options.output_fd = -1;
  EXPECT_FALSE(Terminal::Create(*loop_, std::move(options)).ok());
}

TEST_F(StreamTest, OutputArrivesInOrderFromAnyThread) {
  Create(MakeOptions());
  std::string all;
  for (int i = 0; i < 40000; ++i) all += static_cast<char>('a' + i % 19);
  all += '\n';
  all = all + all + all + all + all;
  std::atomic<bool> written{false};
  std::thread guest([&] {
    size_t at = 0;
    while (at < all.size()) {
      at += Write(absl::string_view(all).substr(at, 211));
      std::this_thread::yield();
    }
    written = true;
  });
  std::string seen;
  std::atomic<bool> done{false};
  std::thread reader([&] {
    char buffer[1000];
    while (seen.size() < all.size()) {
      const ssize_t size = ::read(out_read_.get(), buffer, sizeof(buffer));
      ASSERT_GT(size, 0);
      seen.append(buffer, static_cast<size_t>(size));
    }
    done = true;
  });
  RunUntil([&] { return done.load() && written.load(); });
  guest.join();
  reader.join();
  EXPECT_EQ(seen, all);
  EXPECT_FALSE(::fcntl(out_write_.get(), F_GETFL) & O_NONBLOCK)
      << "others share this description";
}

TEST_F(StreamTest, FullOutputIsRefusedAndAnnounced) {
  int notices = 0;
  Terminal::Options options = MakeOptions();
  options.on_writable = [&] { ++notices; };
  Create(std::move(options));
  const std::string block(4096, 'x');
  size_t taken = 0;
  for (int i = 0; i < 20; ++i) taken += Write(block);
  EXPECT_EQ(taken, Terminal::kOutputLimit);
  EXPECT_EQ(notices, 0);
  // A pipe holds as much again, so the queue empties at once.
  RunUntil([&] { return notices == 1; });
  EXPECT_EQ(notices, 1);
}

TEST_F(StreamTest, BlockedOutputWaitsForItsReader) {
  Create(MakeOptions());
  std::string all;
  size_t refusals = 0;
  // Fill the pipe and the queue behind it.
  const std::string block = std::string(4095, 'y') + "\n";
  std::atomic<size_t> seen{0};
  std::thread reader;
  RunUntil([&] {
    if (!reader.joinable()) {
      const size_t taken = Write(block);
      all.append(block, 0, taken);
      if (taken == 0) ++refusals;
      if (refusals < 100) return false;
      reader = std::thread([&] {
        char buffer[512];
        while (seen < all.size()) {
          const ssize_t size = ::read(out_read_.get(), buffer, sizeof(buffer));
          ASSERT_GT(size, 0);
          ASSERT_EQ(all.compare(seen, static_cast<size_t>(size), buffer,
                                static_cast<size_t>(size)),
                    0);
          seen += static_cast<size_t>(size);
        }
      });
    }
    return seen.load() == all.size();
  });
  reader.join();
  EXPECT_GT(all.size(), 2 * Terminal::kOutputLimit - 4096);
}

TEST_F(StreamTest, LostReaderMeansOutputIsDropped) {
  Create(MakeOptions());
  out_read_.reset();
  EXPECT_EQ(Write("gone"), 4u);
  const std::string block(Terminal::kOutputLimit, 'z');
  RunUntil([&] { return Write(block) == block.size() && Write("x") == 1; });
}

TEST_F(StreamTest, DestructorWritesWhatIsQueued) {
  Create(MakeOptions());
  EXPECT_EQ(Write("last words"), 10u);
  terminal_.reset();
  char buffer[32];
  EXPECT_EQ(::read(out_read_.get(), buffer, sizeof(buffer)), 10);
}

TEST_F(StreamTest, OneSocketForBothWays) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  UniqueFd ours(fds[0]), theirs(fds[1]);
  Terminal::Options options = MakeOptions();
  options.input_fd = options.output_fd = ours.get();
  Create(std::move(options));
  ASSERT_EQ(::write(theirs.get(), "in", 2), 2);
  const std::string block(3 * Terminal::kOutputLimit, 's');
  size_t at = 0, seen = 0;
  RunUntil([&] {
    at += Write(absl::string_view(block).substr(at));
    char buffer[4096];
    const ssize_t size =
        ::recv(theirs.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (size > 0) seen += static_cast<size_t>(size);
    return seen == block.size() && input_ == "in";
  });
  EXPECT_EQ(seen, block.size());
}

}  // namespace
}  // namespace cloister::cli
