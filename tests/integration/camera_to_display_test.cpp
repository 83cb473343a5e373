// The complete promise on real drivers: camera frames reach the screen, in order, without a copy, at the promised cost.
// The cost of a process is measured from outside it: the tests start themselves again as a child that streams, and
// observe it with strace, /proc, an allocation counter and screenshots taken outside the guest.
#include "screens.hpp"
#include "support.hpp"

#include <dmaflow/dmaflow.hpp>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#if !defined(DMAFLOW_COUNT_ALLOCATIONS) || !defined(DMAFLOW_CAMERA_TO_DISPLAY) || !defined(DMAFLOW_VIVID_SCREEN)
#error "where the programs are"
#endif

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const char* get(const char* variable, const char* otherwise) {
  const char* value = std::getenv(variable);
  return value == nullptr ? otherwise : value;
}

// --- The child

/// Streams as the environment says, then prints "captured presented dropped bytes_copied". Started by the tests below.
TEST(Child, DISABLED_Streams) {
  const auto camera = must(v4l2::Camera::open("/dev/video0"));
  const auto card = must(kms::Device::open(get("CHILD_DISPLAY", "")));
  kms::Plane* screen = must(must(card->output())->plane());
  Pipeline pipeline;
  must(pipeline.connect(*camera, *screen));
  const auto stop = must(stop_on_signals());
  const auto plans = pipeline.prepare({.size = must(parse_size(get("CHILD_SIZE", "1280x720")))});
  ASSERT_TRUE(plans) << plans.error().message();
  std::printf("%s", plans->front().explain().c_str());
  std::fflush(stdout);  // for wait_until_streaming()
  must(pipeline.run({.stop_fd = stop.get(),
                     .frames = std::strtoull(get("CHILD_FRAMES", "100"), nullptr, 10),
                     .frame_timeout = seconds(20)}));
  const StreamStats& stats = pipeline.stats().streams.front();
  std::printf("RESULT %llu %llu %llu %llu\n", static_cast<unsigned long long>(stats.captured),
              static_cast<unsigned long long>(stats.branches[0].presented),
              static_cast<unsigned long long>(stats.branches[0].dropped.total()),
              static_cast<unsigned long long>(stats.bytes_copied));
}

class Process {
 public:
  /// Starts a command with its output in a file.
  Process(std::vector<std::string> command, const std::vector<std::string>& environment, std::string log)
      : log_(std::move(log)) {
    pid_ = ::fork();
    if (pid_ != 0) return;
    const int out = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    for (const auto& variable : environment) ::putenv(::strdup(variable.c_str()));
    std::vector<char*> arguments;
    for (auto& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  ~Process() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  /// The exit status, or -1 if it did not end in time.
  int wait(seconds limit) {
    const auto end = std::chrono::steady_clock::now() + limit;
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > end) return -1;
      std::this_thread::sleep_for(milliseconds(20));
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  [[nodiscard]] std::string output() const {
    std::ifstream file(log_);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

 private:
  std::string log_;
  pid_t pid_ = -1;
};

std::vector<std::string> child_command(std::vector<std::string> prefix = {}) {
  prefix.insert(prefix.end(),
                {"/proc/self/exe", "--gtest_filter=Child.DISABLED_Streams", "--gtest_also_run_disabled_tests"});
  std::array<char, 4096> self{};
  if (::readlink("/proc/self/exe", self.data(), self.size() - 1) > 0) {
    *std::ranges::find(prefix, "/proc/self/exe") = self.data();
  }
  return prefix;
}

std::string temporary(const std::string& name) { return ::testing::TempDir() + "dmaflow-" + name; }

/// Waits until the process streams: it has printed its plan and now waits for its devices. A wait alone is not enough,
/// because prepare() tries each memory through a mapping, and may wait there for devices that still use it.
bool wait_until_streaming(const Process& process) {
  const auto end = std::chrono::steady_clock::now() + seconds(30);
  while (std::chrono::steady_clock::now() < end) {
    if (process.output().find("buffers of") == std::string::npos) {
      std::this_thread::sleep_for(milliseconds(20));
      continue;
    }
    std::ifstream wchan("/proc/" + std::to_string(process.pid()) + "/syscall");
    long number = -1;
    wchan >> number;
    if (number == 271 || number == 7) return true;  // x86-64: ppoll, poll: it waits for its devices
    std::this_thread::sleep_for(milliseconds(20));
  }
  return false;
}

// --- The cost of a frame

struct Cost {
  std::uint64_t frames = 0;
  std::uint64_t calls = 0;
  std::uint64_t refused = 0;                     ///< commits that failed because the previous flip was pending
  std::map<std::string, std::uint64_t> by_name;  ///< "poll", "VIDIOC_QBUF", ...
  std::vector<std::string> reads_and_writes;     ///< all except those of the display's events
};

/// The name of the call in a line of strace's output, or of its request if it is an ioctl; empty if the line has no
/// call. Parsed by hand: in the lab, regular expressions took longer than the run.
std::string call_in(std::string_view line) {
  const auto word = [](std::string_view text) {
    const auto ends = [](char c) { return !std::isalnum(static_cast<unsigned char>(c)) && c != '_'; };
    return text.substr(0, static_cast<std::size_t>(std::ranges::find_if(text, ends) - text.begin()));
  };
  line.remove_prefix(std::min(line.find_first_not_of("0123456789 "), line.size()));  // the thread's number
  const std::string_view name = word(line);
  if (name.empty() || !line.substr(name.size()).starts_with('(')) return {};
  const auto request = line.find(", ");
  if (name != "ioctl" || request == std::string_view::npos) return std::string(name);
  return std::string(word(line.substr(request + 2)));
}

/// The calls that strace recorded between STREAMON and STREAMOFF, in all threads.
Cost read_trace(const std::string& path) {
  Cost cost;
  std::ifstream file(path);
  bool inside = false;
  std::string card;  // the descriptor of the display, as strace shows it
  for (std::string line; std::getline(file, line);) {
    const std::string name = call_in(line);
    if (name.empty()) continue;
    if (name == "openat" && line.find("\"/dev/dri/card") != std::string::npos && line.find("= -1") == std::string::npos)
      card = "read(" + line.substr(line.rfind("= ") + 2) + ", ";
    if (name == "VIDIOC_STREAMOFF") break;
    if (inside) {
      ++cost.calls;
      ++cost.by_name[name];
      if (name == "VIDIOC_DQBUF" && line.ends_with("= 0")) ++cost.frames;
      if (name == "DRM_IOCTL_MODE_ATOMIC" && line.find("= -1 EBUSY") != std::string::npos) ++cost.refused;
      if ((name == "read" && line.find(card) == std::string::npos) || name == "write" ||
          name.find("splice") != std::string::npos || name.find("sendfile") != std::string::npos ||
          name == "copy_file_range" || name == "readv" || name == "writev") {
        cost.reads_and_writes.push_back(line);
      }
    }
    if (name == "VIDIOC_STREAMON") inside = true;
  }
  return cost;
}

struct Shape {
  const char* size;
  const char* frames;
};

class FrameCost : public testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(At, FrameCost,
                         testing::Values(Shape{"640x480", "300"}, Shape{"1280x720", "300"}, Shape{"1920x1080", "60"}),
                         [](const auto& test) { return "Size" + std::string(test.param.size); });

Cost cost_on(const std::string& driver, const Shape& shape) {
  const std::string trace = temporary("trace");
  Process child(child_command({"strace", "-f", "-qq", "-o", trace}),
                {"CHILD_DISPLAY=" + card_path(driver), std::string("CHILD_SIZE=") + shape.size,
                 std::string("CHILD_FRAMES=") + shape.frames},
                temporary("log"));
  EXPECT_EQ(child.wait(seconds(100)), 0) << child.output();
  return read_trace(trace);
}

// A frame costs four calls. If its commit is refused because the previous flip is pending, it costs three more: the
// refused commit, and the poll and the read that receive the flip event (docs/architecture.md, "One frame's cost"). How
// often that happens depends on the machine and its load, so it is only printed.
TEST_P(FrameCost, FourSystemCallsAndThreeWhereItWaitsForTheDisplayNoImportNoMappingNoCopy) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  for (const std::string& driver : shared_screens()) {
    Cost cost = cost_on(driver, GetParam());
    const auto wanted = std::strtoull(GetParam().frames, nullptr, 10);
    EXPECT_EQ(cost.frames, wanted);
    std::string kinds;
    for (const auto& [name, count] : cost.by_name) kinds += " " + name + " " + std::to_string(count);
    const std::uint64_t flips_read = cost.by_name["read"];
    EXPECT_LE(cost.refused, cost.frames);
    EXPECT_LE(flips_read, cost.frames);
    const std::uint64_t of_start_and_end = 20;
    EXPECT_LE(cost.calls, 4 * cost.frames + cost.refused + 2 * flips_read + of_start_and_end) << driver << kinds;
    std::printf("%s %s: %.2f system calls a frame:%s\n", driver.c_str(), GetParam().size,
                static_cast<double>(cost.calls) / static_cast<double>(cost.frames), kinds.c_str());
    for (const char* never : {"mmap", "munmap", "brk", "DRM_IOCTL_PRIME_FD_TO_HANDLE", "DRM_IOCTL_MODE_ADDFB2",
                              "DRM_IOCTL_GEM_CLOSE", "VIDIOC_EXPBUF", "openat", "dup", "futex"}) {
      EXPECT_EQ(cost.by_name[never], 0U) << never << " while streaming on " << driver;
    }
    EXPECT_TRUE(cost.reads_and_writes.empty()) << cost.reads_and_writes.front();
  }
}

TEST_P(FrameCost, NoHeapAllocationByAnythingInTheProcess) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  for (const std::string& driver : shared_screens()) {
    const std::string counted = temporary("allocations");
    Process child(
        child_command(),
        {"LD_PRELOAD=" DMAFLOW_COUNT_ALLOCATIONS, "DMAFLOW_ALLOCATIONS=" + counted,
         "CHILD_DISPLAY=" + card_path(driver), std::string("CHILD_SIZE=") + GetParam().size, "CHILD_FRAMES=60"},
        temporary("log"));
    ASSERT_EQ(child.wait(seconds(60)), 0) << child.output();
    std::ifstream file(counted);
    std::string line;
    std::getline(file, line);
    EXPECT_NE(line.find(R"("streamed":true)"), std::string::npos) << line;
    EXPECT_NE(line.find(R"("allocations":0,)"), std::string::npos) << driver << ": " << line;
  }
}

TEST(CameraToDisplay, NothingOfAFrameIsMappedWhileItStreams) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  Process child(child_command(), {"CHILD_DISPLAY=" + card_path("virtio_gpu"), "CHILD_FRAMES=300"}, temporary("log"));
  ASSERT_TRUE(wait_until_streaming(child)) << child.output();
  for (int look = 0; look < 20; ++look) {
    std::ifstream maps("/proc/" + std::to_string(child.pid()) + "/maps");
    for (std::string line; std::getline(maps, line);) {
      EXPECT_EQ(line.find("dmabuf"), std::string::npos) << line;
      EXPECT_EQ(line.find("/dev/video"), std::string::npos) << line;
      EXPECT_EQ(line.find("/dev/dri"), std::string::npos) << line;
    }
    std::this_thread::sleep_for(milliseconds(50));
  }
  ::kill(child.pid(), SIGINT);
  EXPECT_EQ(child.wait(seconds(20)), 0) << child.output();
}

// --- What a viewer sees

TEST(CameraToDisplay, PicturesFromOutsideShowTheBarsAndTheCounterRising) {
  if (!in_lab()) GTEST_SKIP() << "pictures are taken outside the lab's guest";
  for (const std::string& driver : shared_screens()) {
    const std::string display = driver == "virtio_gpu" ? "virtio" : "bochs";  // QEMU's name for it
    Process child(child_command(), {"CHILD_DISPLAY=" + card_path(driver), "CHILD_FRAMES=100000"}, temporary("log"));
    ASSERT_TRUE(wait_until_streaming(child)) << child.output();
    std::this_thread::sleep_for(seconds(1));
    const std::string directory = get("DMAFLOW_PICTURES", DMAFLOW_BUILD_DIR);
    std::string names;
    for (int i = 0; i < 3; ++i) {
      const std::string name = directory + "/seen-" + display + "-" + std::to_string(i) + ".png";
      ASSERT_EQ(std::system(("lab-screenshot " + name + " " + display).c_str()), 0);
      names += " " + name;
      std::this_thread::sleep_for(milliseconds(300));
    }
    ::kill(child.pid(), SIGTERM);
    EXPECT_EQ(child.wait(seconds(20)), 0) << child.output();

    const std::string report = temporary("report");
    ASSERT_EQ(std::system(("python3 " DMAFLOW_VIVID_SCREEN + names + " >" + report).c_str()), 0);
    std::ifstream file(report);
    long before = -1;
    int pictures = 0;
    for (std::string line; std::getline(file, line); ++pictures) {
      EXPECT_TRUE(line.starts_with("bars right, 1280x720, counter ")) << display << ": " << line;
      const long counter = std::strtol(line.substr(line.rfind(' ') + 1).c_str(), nullptr, 10);
      EXPECT_GT(counter, before) << display << ": " << line;
      before = counter;
    }
    EXPECT_EQ(pictures, 3);
  }
}

TEST(CameraToDisplay, FramesAreShownInOrderEachOnceAndNeverEarly) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  const LeakCheck leaks;
  for (const std::string& driver : shared_screens()) {
    const auto camera = must(v4l2::Camera::open("/dev/video0"));
    const auto card = must(kms::Device::open(card_path(driver)));
    kms::Plane* screen = must(must(card->output())->plane());
    const auto plan =
        negotiate({.producer = camera.get(), .consumers = {screen}, .request = {.size = Size{1280, 720}}});
    ASSERT_TRUE(plan) << plan.error().explain();
    const auto buffers = must(plan->allocator->allocate(plan->request()));
    must(screen->start(buffers));
    must(camera->start(buffers));

    std::uint64_t taken = 0;
    std::uint64_t displaced = 0;
    std::vector<Presentation> shown;
    const auto collect = [&] {
      std::array<Presentation, 64> reports;
      const auto count = screen->take_presented(reports);
      shown.insert(shown.end(), reports.begin(), reports.begin() + static_cast<std::ptrdiff_t>(count));
    };
    while (taken < 200) {
      std::array<pollfd, 2> fds{pollfd{camera->poll_fd(), camera->poll_events(), 0},
                                pollfd{screen->poll_events() == 0 ? -1 : screen->poll_fd(), screen->poll_events(), 0}};
      ASSERT_GT(sys::wait(fds, Deadline::after(seconds(5))), 0);
      if (fds[1].revents != 0) must(screen->dispatch(fds[1].revents));
      must(camera->dispatch(fds[0].revents));
      if (fds[0].revents != 0) {
        Frame frame = must(camera->take());
        if (frame) {
          ++taken;
          if (must(screen->accept(std::move(frame)))) ++displaced;
          must(screen->flush());
        }
      }
      must(camera->dispatch(0));
      collect();
    }
    must(screen->drain(Deadline::after(seconds(2))));
    collect();
    EXPECT_EQ(shown.size() + displaced, taken) << driver;
    for (std::size_t i = 0; i < shown.size(); ++i) {
      // A driver that simulates its refresh by a timer (virtio-gpu since Linux 7) reports when the timer was due. If
      // the timer runs late, that time is before the commit, by less than a refresh period.
      EXPECT_GT(shown[i].presented + std::chrono::nanoseconds(seconds(1)) / 50, shown[i].captured)
          << "shown before it was there";
      if (i == 0) continue;  // at 60 a second vivid uses some numbers twice; the count above finds repeats
      EXPECT_GE(shown[i].sequence, shown[i - 1].sequence);
    }
    must(camera->stop());
    must(screen->stop());
  }
}

// --- Failures

TEST(CameraToDisplay, SignalsInMidStreamEndItCleanly) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  const LeakCheck leaks;
  for (const int signal : {SIGINT, SIGTERM}) {
    Process program({DMAFLOW_CAMERA_TO_DISPLAY, "--size", "1280x720", "--display", card_path("virtio_gpu")}, {},
                    temporary("log"));
    ASSERT_TRUE(wait_until_streaming(program)) << program.output();
    std::this_thread::sleep_for(milliseconds(300));
    ::kill(program.pid(), signal);
    EXPECT_EQ(program.wait(seconds(20)), 0) << program.output();
  }
}

TEST(CameraToDisplay, BadInputIsOneClearErrorAndANonZeroExit) {
  if (!in_lab()) GTEST_SKIP() << "uses the lab's devices";
  const LeakCheck leaks;
  struct Case {
    std::vector<std::string> arguments;
    std::vector<std::string> says;
  };
  const std::string card = card_path("virtio_gpu");
  const std::array cases{
      Case{{"--camera", "/dev/video77"}, {"/dev/video77", "ENOENT"}},
      Case{{"--camera", "/dev/null"}, {"/dev/null", "V4L2"}},
      Case{{"--camera", "/dev/video10"}, {"/dev/video10", "output"}},
      Case{{"--display", "/dev/dri/card77"}, {"/dev/dri/card77"}},
      Case{{"--display", card_path("vgem")}, {card_path("vgem")}},
      Case{{"--display", card, "--size", "1234x567"}, {"/dev/video0", "1280x720"}},
      Case{{"--display", card, "--size", "0x0"}, {"0x0"}},
      Case{{"--display", card, "--size", "16385x16385"}, {"16385"}},
      Case{{"--display", card, "--size", "nonsense"}, {"nonsense"}},
      Case{{"--no-such-option"}, {"--no-such-option"}},
  };
  for (const Case& bad : cases) {
    std::vector<std::string> command{DMAFLOW_CAMERA_TO_DISPLAY, "--seconds", "1"};
    command.insert(command.end(), bad.arguments.begin(), bad.arguments.end());
    Process program(command, {}, temporary("log"));
    const int status = program.wait(seconds(20));
    const std::string output = program.output();
    EXPECT_GT(status, 0) << bad.arguments.back();
    EXPECT_LT(status, 126) << bad.arguments.back();
    for (const std::string& word : bad.says) EXPECT_NE(output.find(word), std::string::npos) << output;
  }
}

TEST(CameraToDisplay, ACameraUnpluggedInMidStreamEndsTheRunWithItsError) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  const LeakCheck leaks;
  auto camera = must(v4l2::Camera::open("/dev/video1"));
  const auto card = must(kms::Device::open(card_path("virtio_gpu")));
  Pipeline pipeline;
  must(pipeline.connect(*camera, *must(must(card->output())->plane())));
  ASSERT_TRUE(pipeline.prepare({.size = Size{1280, 720}}));
  int turns = 0;
  const auto ran = pipeline.run({.duration = seconds(20), .progress = [&](const Stats&) {
                                   if (++turns == 1) must(camera->set_control("Disconnect", 1));
                                 }});
  EXPECT_FALSE(ran);
  EXPECT_EQ(ran.error().device(), camera->name()) << ran.error().message();
  EXPECT_EQ(turns, 1) << "it ended at once";
}

TEST(CameraToDisplay, ASignalThatChangesInMidStreamIsPlannedAnew) {
  if (!in_lab()) GTEST_SKIP() << "uses vivid's HDMI input";
  const LeakCheck leaks;
  auto camera = must(v4l2::Camera::open("/dev/video0", {.input = "HDMI"}));
  must(camera->set_control("DV Timings", "1280x720p60"));
  must(camera->set_control("DV Timings Signal Mode", "Selected DV Timings"));
  const auto card = must(kms::Device::open(card_path("virtio_gpu")));
  Pipeline pipeline;
  must(pipeline.connect(*camera, *must(must(card->output())->plane())));
  ASSERT_TRUE(pipeline.prepare());
  EXPECT_EQ(pipeline.plans().front().config.layout.size, (Size{1280, 720}));
  int turns = 0;
  must(pipeline.run({.duration = seconds(5), .progress = [&](const Stats&) {
                       if (++turns == 1) must(camera->set_control("DV Timings", "1024x768p60"));
                     }}));
  EXPECT_EQ(pipeline.plans().front().config.layout.size, (Size{1024, 768}));
  const StreamStats& stats = pipeline.stats().streams.front();
  EXPECT_EQ(stats.renegotiations, 1U);
  EXPECT_EQ(stats.branches[0].presented + stats.branches[0].dropped.total(), stats.captured)
      << "no frame is lost or doubled";
  must(camera->set_control("DV Timings", "1280x720p60"));
  must(camera->set_control("DV Timings Signal Mode", "Current DV Timings"));
}

// --- Several branches at once

TEST(CameraToDisplay, OneCameraFeedsADisplayAndASlowRecorderAtOnce) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  const LeakCheck leaks;
  const auto camera = must(v4l2::Camera::open("/dev/video0"));
  const auto card = must(kms::Device::open(card_path("virtio_gpu")));
  kms::Plane* screen = must(must(card->output())->plane());
  const auto recorder = must(v4l2::Output::open("/dev/video11"));  // takes frames at its own pace
  Pipeline pipeline;
  must(pipeline.connect(*camera, *screen, "screen"));
  must(pipeline.connect(*camera, *recorder, "recorder", {.policy = Policy::drop_when_full, .max_queued = 2}));
  const auto plans = pipeline.prepare({.size = Size{1280, 720}});
  ASSERT_TRUE(plans) << plans.error().message();
  std::printf("%s", plans->front().explain().c_str());
  std::fflush(stdout);  // for wait_until_streaming()
  must(pipeline.run({.frames = 120}));
  const StreamStats& stats = pipeline.stats().streams.front();
  for (const BranchStats& branch : stats.branches) {
    EXPECT_GT(branch.presented, 0U) << branch.name;
    // A video output device keeps the last frame it was given, and does not report it as presented.
    EXPECT_GE(branch.presented + branch.dropped.total(), stats.captured - (branch.name == "recorder" ? 1 : 0))
        << branch.name;
  }
}

TEST(CameraToDisplay, WithoutAZeroCopyPlanItSaysSoAndCopiesOnlyWhenAsked) {
  if (!in_lab()) GTEST_SKIP() << "needs a camera and a display that cannot share";
  const LeakCheck leaks;
  const auto camera = must(v4l2::Camera::open("/dev/video2"));         // needs contiguous memory
  const auto card = must(kms::Device::open(card_path("virtio_gpu")));  // shows only its own memory
  Pipeline pipeline;
  must(pipeline.connect(*camera, *must(must(card->output())->plane())));
  const auto refused = pipeline.prepare({.size = Size{1280, 720}, .formats = {formats::xrgb8888}});
  if (refused) GTEST_SKIP() << "this camera and this display can share";
  EXPECT_EQ(refused.error().code(), ENOTSUP);
  ASSERT_TRUE(pipeline.refusal());
  for (const Detail how_much : {Detail::brief, Detail::all}) {
    const std::string text = pipeline.refusal()->explain(how_much);
    EXPECT_NE(text.find("VIDIOC_QBUF"), std::string::npos) << text;
    EXPECT_NE(text.find("DRM_IOCTL_PRIME_FD_TO_HANDLE"), std::string::npos) << text;
  }

  const auto plans = pipeline.prepare({.size = Size{1280, 720}, .formats = {formats::xrgb8888}, .allow_copy = true});
  ASSERT_TRUE(plans) << plans.error().message();
  EXPECT_TRUE(plans->front().copies);
  must(pipeline.run({.frames = 10}));
  const StreamStats& stats = pipeline.stats().streams.front();
  EXPECT_EQ(stats.bytes_copied % (1280 * 720 * 4), 0U);
  EXPECT_GE(stats.bytes_copied, stats.branches[0].presented * 1280 * 720 * 4);
  EXPECT_GT(stats.branches[0].presented, 0U);
}

}  // namespace
