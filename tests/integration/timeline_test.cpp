// Timelines on a real DRM device (virtio-gpu in the lab), with real pending and failing fences (sw_sync).
#include "timeline_support.hpp"

#include <dmaflow/cancel.hpp>
#include <dmaflow/timeline.hpp>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dmaflow::test {
namespace {

// --- Devices ---

TEST_F(Timelines, EveryNodeSaysWhatItHasAndADriverWithoutSaysWhatHelps) {
  for (const std::string& path : nodes()) {
    const auto device = SyncobjDevice::open(path);
    const std::string name(device ? device->name() : device.error().device());  // "/dev/dri/card0 (virtio_gpu)"
    const auto driver = name.rfind('(');
    if (driver != std::string::npos) {
      test::observe(name.substr(driver + 1, name.size() - driver - 2) + " has timelines",
                    device && device->has_timelines(), page);
    }
    if (device) {
      EXPECT_TRUE(name.starts_with(path)) << name;
      continue;
    }
    if (device.error().operation() == "open" && !test::in_lab()) continue;  // not ours to open
    EXPECT_EQ(device.error().code(), EOPNOTSUPP) << device.error().message();
    EXPECT_TRUE(mentions(device.error(), path)) << device.error().message();
    EXPECT_TRUE(mentions(device.error(), "another DRM device")) << device.error().message();
  }
}

TEST_F(Timelines, WhatIsNoDrmDeviceIsRefused) {
  const auto device = SyncobjDevice::open("/dev/null");
  ASSERT_TRUE(fails_with(device, ENOTTY));
  EXPECT_TRUE(mentions(device.error(), "/dev/null"));
}

TEST_F(Timelines, NoPermissionNamesTheGroupThatMay) {
  if (!test::in_lab()) GTEST_SKIP() << "needs the lab's users and permissions";
  const std::string path = path_;
  const std::string said = test::as_user(1000, {1000}, [&] {
    const auto device = SyncobjDevice::open(path);
    return device ? std::string("opened") : device.error().message();
  });
  EXPECT_NE(said.find("EACCES"), std::string::npos) << said;
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  const group* owner = ::getgrgid(status.st_gid);
  ASSERT_NE(owner, nullptr);
  EXPECT_NE(said.find(std::string("usermod -aG ") + owner->gr_name), std::string::npos) << said;
}

TEST_F(Timelines, AFileOfTheUsersIsAdoptedOrCopied) {
  const test::LeakCheck leaks;
  Fd fd = Fd::adopt(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  const SyncobjDevice copied = must(SyncobjDevice::dup_of(fd.get()));
  const Timeline timeline = must(Timeline::create(copied));
  EXPECT_TRUE(timeline.signal(1));
  EXPECT_TRUE(timeline.at(1).fence());  // makes the library's internal objects now, so that none gets this handle
  // The same DRM file: the user's own calls know the handle.
  drm_syncobj_destroy destroy{.handle = timeline.handle(), .pad = 0};
  EXPECT_EQ(::ioctl(fd.get(), DRM_IOCTL_SYNCOBJ_DESTROY, &destroy), 0);
  EXPECT_TRUE(fails_with(timeline.signal(2), ENOENT));
  EXPECT_TRUE(fails_with(timeline.wait(1, soon()), ENOENT));
  EXPECT_TRUE(fails_with(timeline.query(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.reset(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.at(1).fence(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.at(1).event(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.export_fd(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.at(2).transfer_from(timeline.at(1)), ENOENT));
  const SyncobjDevice adopted = must(SyncobjDevice::adopt(fd));
  EXPECT_FALSE(fd);
  EXPECT_TRUE(Timeline::create(adopted));
}

// --- Points ---

TEST_F(Timelines, ANewOneHasNothingSubmitted) {
  const Timeline timeline = this->timeline();
  EXPECT_EQ(must(timeline.query()), 0U);
  EXPECT_EQ(must(timeline.query_submitted()), 0U);
  EXPECT_TRUE(fails_with(timeline.wait(1, soon(), {.for_submit = false}), EINVAL));
  EXPECT_TRUE(fails_with(timeline.wait(0, soon(), {.for_submit = false}), EINVAL)) << "nor is there a fence at all";
  EXPECT_TRUE(must(Timeline::create(*device_, true)).wait(0, Deadline::immediate(), {.for_submit = false}));
}

TEST_F(Timelines, ASignalledPointCoversAllBelow) {
  const Timeline timeline = this->timeline();
  must(timeline.signal(5));
  EXPECT_EQ(must(timeline.query()), 5U);
  for (const std::uint64_t point : {0U, 1U, 4U, 5U}) EXPECT_TRUE(timeline.wait(point, Deadline::immediate())) << point;
  EXPECT_TRUE(fails_with(timeline.wait(6, shortly()), ETIMEDOUT));
}

TEST_F(Timelines, PointsOutOfOrderNeverGoBack) {
  const Timeline timeline = this->timeline();
  must(timeline.signal(5));
  must(timeline.signal(3));
  must(timeline.signal(5));
  EXPECT_EQ(must(timeline.query()), 5U);
  EXPECT_EQ(must(timeline.query_submitted()), 5U);
  EXPECT_TRUE(timeline.wait(5, Deadline::immediate()));
  EXPECT_TRUE(fails_with(timeline.wait(6, Deadline::immediate()), ETIMEDOUT));
  must(timeline.signal(7));
  EXPECT_TRUE(timeline.wait(6, Deadline::immediate())) << "between two points: as the next higher";
}

TEST_F(Timelines, ALowerPointSubmittedLateWaitsForTheHigherOne) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  must(timeline.signal(3));
  EXPECT_TRUE(fails_with(timeline.wait(3, shortly()), ETIMEDOUT)) << "it is behind point 5 in the kernel's chain";
  fences.advance();
  EXPECT_TRUE(timeline.wait(3, soon()));
}

TEST_F(Timelines, PointsHave64Bits) {
  const Timeline timeline = this->timeline();
  for (const std::uint64_t point : {std::uint64_t{1}, std::uint64_t{1} << 32U, (std::uint64_t{1} << 32U) + 1,
                                    std::uint64_t{1} << 63U, UINT64_MAX - 1, UINT64_MAX}) {
    EXPECT_TRUE(fails_with(timeline.wait(point, Deadline::immediate()), ETIMEDOUT)) << point;
    must(timeline.signal(point));
    EXPECT_EQ(must(timeline.query()), point);
    EXPECT_EQ(must(timeline.query_submitted()), point);
    EXPECT_TRUE(timeline.wait(point, Deadline::immediate()));
    EXPECT_TRUE(timeline.at(point).fence());
    if (point == UINT64_MAX) break;
    EXPECT_TRUE(fails_with(timeline.wait(point + 1, Deadline::immediate()), ETIMEDOUT));
  }
}

TEST_F(Timelines, PointZeroIsABinarySyncobj) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(0, fences.fence(1)));
  EXPECT_TRUE(fails_with(timeline.wait(0, shortly()), ETIMEDOUT));
  EXPECT_FALSE(must(must(timeline.at(0).fence()).has_ended()));
  must(timeline.signal(0));
  EXPECT_TRUE(timeline.wait(0, Deadline::immediate())) << "the signalled fence has replaced the pending one";
  must(timeline.reset());
  EXPECT_TRUE(fails_with(timeline.wait(0, shortly()), ETIMEDOUT));
  must(timeline.import_fence(0, fences.fence(2)));
  fences.advance(2);
  EXPECT_TRUE(timeline.wait(0, soon()));
}

// --- Fences ---

TEST_F(Timelines, FencesGoInAndComeOut) {
  const test::LeakCheck leaks;
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  must(timeline.import_fence(6, fences.fence(2)));
  const Fence five = must(timeline.at(5).fence());
  const Fence six = must(timeline.at(6).fence());
  EXPECT_FALSE(must(five.has_ended()));
  fences.advance();
  EXPECT_TRUE(timeline.wait(5, soon()));
  EXPECT_TRUE(five.wait(soon()));
  EXPECT_TRUE(fails_with(timeline.wait(6, shortly()), ETIMEDOUT));
  EXPECT_EQ(must(timeline.query()), 5U);
  EXPECT_EQ(must(timeline.query_submitted()), 6U);
  must(timeline.reset());
  EXPECT_FALSE(must(six.has_ended())) << "what was taken out stays what it was";
  fences.advance();
  EXPECT_TRUE(six.wait(soon()));
  must(timeline.import_fence(9, Fence()));
  EXPECT_EQ(must(timeline.query()), 9U) << "a null fence has signalled";
}

TEST_F(Timelines, APointThatIsNotSubmittedHasNoFence) {
  const Timeline timeline = this->timeline();
  for (int i = 0; i < 2; ++i) {
    const auto fence = timeline.at(5).fence();
    ASSERT_TRUE(fails_with(fence, EINVAL));
    EXPECT_TRUE(mentions(fence.error(), "not submitted"));
    must(timeline.signal(1));
    EXPECT_TRUE(timeline.at(1).fence());
  }
}

TEST_F(Timelines, AWaitEndsWithTheErrorOfTheFence) {
  for (const std::uint64_t point : {0U, 5U}) {
    const Timeline timeline = this->timeline();
    const Cancel cancel = must(Cancel::create());
    SwSync fences;
    must(timeline.import_fence(point, fences.fence(1)));
    Waiter before([&] { return timeline.wait(point, soon()); });
    Waiter cancellable([&] { return timeline.wait(point, soon(), {.cancel = &cancel}); });
    Waiter all([&] { return wait_all(std::array{timeline.at(point), timeline.at(point)}, soon()); });
    Waiter any([&]() -> Result<void> {
      auto result = wait_any(std::array{timeline.at(99), timeline.at(point)}, soon());
      if (!result) return std::unexpected(result.error());
      return {};
    });
    if (point == 0) must(timeline.wait(0, soon(), {.available = true}));
    for (Waiter* waiter : {&before, &cancellable, &all}) waiter->asleep();
    if (point != 0) any.asleep();
    fences.fail();
    const int error = error_of_sw_sync();
    EXPECT_EQ(before.code(), error);
    EXPECT_EQ(cancellable.code(), error);
    EXPECT_EQ(all.code(), error);
    EXPECT_EQ(any.code(), error);
    EXPECT_TRUE(fails_with(timeline.wait(point, soon()), error)) << "also who comes later";
    const auto kernels_own = timeline.wait(point, soon(), {.report_failure = false});
    test::observe(std::string("the kernel's wait for ") + (point == 0 ? "a binary syncobj" : "a timeline point") +
                      " tells that its fence failed",
                  !kernels_own, page);
    EXPECT_TRUE(kernels_own || fails_with(kernels_own, error));
  }
}

TEST_F(Timelines, WhoWaitsKeepsTheErrorThatTheKernelForgets) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  Waiter waiter([&] { return timeline.wait(5, soon()); });
  waiter.asleep();
  must(timeline.signal(6));
  fences.fail();
  EXPECT_EQ(waiter.code(), error_of_sw_sync());
  const auto late = timeline.wait(5, soon());
  test::observe("drm_syncobj keeps the error of a point that is followed by another", !late, page);
  EXPECT_TRUE(late || fails_with(late, error_of_sw_sync()));
  EXPECT_TRUE(timeline.wait(6, soon())) << "the failure of a lower point is not that of a higher one";
}

TEST_F(Timelines, AWaitThatBeganBeforeTheSubmissionLearnsOfTheErrorToo) {
  const Timeline timeline = this->timeline();
  EXPECT_NE(timeline.handle(), 0U);  // tells the library that fences may come from elsewhere
  SwSync fences;
  Waiter waiter([&] { return timeline.wait(5, soon()); });
  waiter.asleep();
  must(timeline.import_fence(5, fences.fence(1)));
  fences.fail();
  EXPECT_EQ(waiter.code(), error_of_sw_sync());
}

TEST_F(Timelines, AFenceThatHasFailedAlreadyIsNotImportedInSilence) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  const Fence fence = fences.fence(1);
  fences.fail();
  const auto imported = timeline.import_fence(5, fence);
  test::observe("a timeline point keeps the error of a fence that had failed before", imported.has_value(), page);
  if (imported) {
    EXPECT_TRUE(fails_with(timeline.wait(5, soon()), error_of_sw_sync()));
  } else {  // the kernel loses the error, so the import has to report it
    EXPECT_EQ(imported.error().code(), error_of_sw_sync());
    EXPECT_TRUE(timeline.wait(5, Deadline::immediate())) << "and yet nobody waits for ever";
  }
}

TEST_F(Timelines, TransfersBetweenPointsTimelinesAndDevices) {
  const Timeline source = timeline();
  const Timeline target = timeline();
  const SyncobjDevice other_device = must(SyncobjDevice::open(path_));
  const Timeline elsewhere = must(Timeline::create(other_device));
  SwSync fences;
  const auto refused = target.at(1).transfer_from(source.at(5));
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_TRUE(mentions(refused.error(), "point 5 is not submitted"));
  must(source.import_fence(5, fences.fence(1)));
  must(source.at(7).transfer_from(source.at(5)));  // within the same timeline
  must(target.at(3).transfer_from(source.at(5)));
  must(elsewhere.at(9).transfer_from(source.at(5)));
  must(target.at(0).transfer_from(target.at(3)));
  const std::array points{source.at(7), target.at(0)};
  EXPECT_TRUE(fails_with(wait_any(points, shortly()), ETIMEDOUT));
  EXPECT_EQ(must(source.query_submitted()), 7U);
  fences.advance();
  EXPECT_TRUE(wait_all(points, soon()));
  EXPECT_TRUE(elsewhere.wait(9, soon()));
}

TEST_F(Timelines, ATransferredFailureArrives) {
  const Timeline source = timeline();
  const Timeline target = timeline();
  SwSync fences;
  must(source.import_fence(5, fences.fence(1)));
  must(target.at(3).transfer_from(source.at(5)));
  fences.fail();
  EXPECT_TRUE(fails_with(target.wait(3, soon()), error_of_sw_sync()));
}

// --- Sharing ---

TEST_F(Timelines, ATimelinePassesBetweenDevicesByDescriptor) {
  const test::LeakCheck leaks;
  const Timeline here = timeline();
  const Fd fd = must(here.export_fd());
  EXPECT_EQ(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  std::vector<Timeline> there;
  for (const std::string& path : nodes()) {
    const auto device = SyncobjDevice::open(path);
    if (device) there.push_back(must(Timeline::import_fd(*device, fd.get()), path.c_str()));
  }
  ASSERT_FALSE(there.empty());
  EXPECT_GE(::fcntl(fd.get(), F_GETFD), 0) << "it is still the caller's";
  for (const Timeline& each : there) {
    const std::uint64_t next = must(here.query()) + 1;
    Waiter waiter([&] { return here.wait(next, soon()); });
    waiter.asleep();
    must(each.signal(next));
    EXPECT_EQ(waiter.code(), 0);
    EXPECT_EQ(must(each.query()), next);
  }
}

TEST_F(Timelines, AFailureInAnotherProcesssHandsIsSeenToo) {
  const Timeline here = timeline();
  const SyncobjDevice device = must(SyncobjDevice::open(path_));
  const Timeline peer = must(Timeline::import_fd(device, must(here.export_fd()).get()));
  SwSync fences;
  must(peer.import_fence(5, fences.fence(1)));
  fences.fail();
  EXPECT_TRUE(fails_with(here.wait(5, soon()), error_of_sw_sync()));
}

TEST_F(Timelines, WrongDescriptorsAreNamedAndNeverClosed) {
  const test::LeakCheck leaks;
  const Timeline timeline = this->timeline();
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd read_end = Fd::adopt(ends[0]);
  const Fd write_end = Fd::adopt(ends[1]);
  test::Vgem vgem;
  std::uint32_t handle = 0;
  const Fd dma_buf = vgem.dma_buf(1, handle);
  SwSync fences;
  const Fd sync_file = fences.raw_fence(1);
  const struct {
    int fd;
    const char* words;
  } wrong[] = {{read_end.get(), "is not a syncobj"},
               {dma_buf.get(), "a dma-buf"},
               {sync_file.get(), "import_fence()"},
               {device_->fd(), "is not a syncobj"}};
  for (const auto& [fd, words] : wrong) {
    const auto imported = Timeline::import_fd(*device_, fd);
    ASSERT_TRUE(fails_with(imported, EINVAL));
    EXPECT_TRUE(mentions(imported.error(), words)) << imported.error().message();
    EXPECT_TRUE(mentions(imported.error(), "descriptor " + std::to_string(fd))) << imported.error().message();
    EXPECT_GE(::fcntl(fd, F_GETFD), 0);
  }
  for (const int closed : {987, -1}) EXPECT_TRUE(fails_with(Timeline::import_fd(*device_, closed), EBADF));
}

// --- Promises ---

TEST_F(Timelines, APromiseForgottenWakesThePeer) {
  const Timeline timeline = this->timeline();
  const SyncobjDevice device = must(SyncobjDevice::open(path_));
  const Timeline peer = must(Timeline::import_fd(device, must(timeline.export_fd()).get()));
  std::optional<ReleasePoint> promise(timeline.at(5));
  Waiter waiter([&] { return peer.wait(5, soon()); });
  waiter.asleep();
  EXPECT_FALSE(waiter.is_over());
  promise.reset();
  EXPECT_EQ(waiter.code(), 0);
}

TEST_F(Timelines, APromiseKeptWithAFenceIsSignalledByIt) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  {
    ReleasePoint promise(timeline.at(5));
    must(promise.signal_with(fences.fence(1)));
  }
  EXPECT_TRUE(fails_with(timeline.wait(5, shortly()), ETIMEDOUT)) << "not by being destroyed";
  fences.advance();
  EXPECT_TRUE(timeline.wait(5, soon()));
}

TEST_F(Timelines, APromiseOvertakenChangesNothing) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  {
    const ReleasePoint promise(timeline.at(5));
    must(timeline.import_fence(6, fences.fence(1)));
  }
  must(timeline.signal(7));
  EXPECT_EQ(must(timeline.query()), 0U) << "a value out of order would make the kernel claim point 6";
  fences.advance();
  EXPECT_TRUE(timeline.wait(5, soon()));
}

// --- Leaks ---

TEST_F(Timelines, HandlesAreGivenBack) {
  const auto next_handle = [&] { return timeline().handle(); };
  const std::uint32_t first = next_handle();
  if (next_handle() != first) GTEST_SKIP() << "this kernel does not give the lowest free handle";
  SwSync fences;
  for (int i = 0; i < 200; ++i) {
    const Timeline timeline = this->timeline();
    must(timeline.import_fence(5, fences.fence(1)));
    EXPECT_TRUE(timeline.at(5).fence());
    EXPECT_FALSE(timeline.wait(6, Deadline::immediate()));
    EXPECT_TRUE(Timeline::import_fd(*device_, must(timeline.export_fd()).get()));
    EXPECT_FALSE(Timeline::import_fd(*device_, 987));
  }
  EXPECT_LE(next_handle(), first + 1) << "the scratch may have been made meanwhile";
}

TEST_F(Timelines, NothingIsLeftBehindWhicheverCallFails) {
  const Cancel cancel = must(Cancel::create());
  SwSync fences;
  const Fence fence = fences.fence(1);
  const auto everything = [&]() -> Result<void> {
    const auto device = SyncobjDevice::open(path_);
    if (!device) return std::unexpected(device.error());
    const auto timeline = Timeline::create(*device);
    if (!timeline) return std::unexpected(timeline.error());
    ReleasePoint promise(timeline->at(9));
    if (auto done = timeline->import_fence(5, fence); !done) return done;
    const auto out = timeline->at(5).fence();
    if (!out) return std::unexpected(out.error());
    const auto fd = timeline->export_fd();
    if (!fd) return std::unexpected(fd.error());
    const auto copy = Timeline::import_fd(*device, fd->get());
    if (!copy) return std::unexpected(copy.error());
    const auto event = copy->at(5).event();
    if (!event) return std::unexpected(event.error());
    const auto waited = copy->wait(5, shortly(), {.cancel = &cancel});
    if (!waited && waited.error().code() != ETIMEDOUT) return waited;
    return promise.signal();
  };
  std::size_t total = 0;
  {
    const test::CountCalls count;
    ASSERT_TRUE(everything());
    total = count.calls();
  }
  for (std::size_t n = 1; n <= total; ++n) {
    const test::LeakCheck leaks;
    const test::FailNth fail(n, EIO);
    const auto result = everything();
    EXPECT_TRUE(result || !result.error().operation().empty());
    ASSERT_TRUE(fail.fired()) << "call " << n << " of " << total;
  }
}

// --- Stress ---

TEST_F(Timelines, EightThreads100000StepsAndThreadSanitizerHasNothingToSay) {
  const std::string steps = test::in_lab() ? "100000" : "2000";
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    ::personality(ADDR_NO_RANDOMIZE);  // old ThreadSanitizers do not know newer kernels' address layouts
    ::execl(DMAFLOW_TIMELINE_STRESS, "timeline_stress", path_.c_str(), steps.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  std::string said;
  char part[512];
  for (ssize_t length = 0; (length = ::read(ends[0], part, sizeof part)) > 0;)
    said.append(part, static_cast<std::size_t>(length));
  ::close(ends[0]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << said;
  EXPECT_NE(said.find(steps + " steps"), std::string::npos) << said;
  EXPECT_EQ(said.find("ThreadSanitizer"), std::string::npos) << said;
  std::printf("%s", said.c_str());
}

}  // namespace
}  // namespace dmaflow::test
