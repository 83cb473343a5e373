// GEM handles of a DRM file: the registry counts them, because the kernel does not, and closes each exactly once.
#include <dmaflow/gem.hpp>

#include "support.hpp"
#include "uapi/drm_gem.hpp"

#include <drm.h>

#include <map>
#include <thread>

namespace {

using namespace dmaflow;

/// A kernel in which dma-buf N has handle N of the file, however often it is imported.
class FakeKernel : public sys::Hook {
 public:
  FakeKernel() { sys::set_hook(this); }
  ~FakeKernel() override { sys::set_hook(nullptr); }
  int before(const sys::Call& call) noexcept override {
    if (call.request == uapi::ioctl_prime_fd_to_handle) {
      ++imports;
      if (again > 0) {
        --again;
        return EAGAIN;
      }
      if (refuse != 0) return refuse;
      auto* prime = static_cast<uapi::PrimeHandle*>(const_cast<void*>(call.argument));
      prime->handle = static_cast<std::uint32_t>(prime->fd);
      return pretend;
    }
    if (call.request == uapi::ioctl_gem_close) {
      ++closed[static_cast<const uapi::GemClose*>(call.argument)->handle];
      return pretend;
    }
    return ENOSYS;
  }
  std::map<std::uint32_t, int> closed;
  int refuse = 0;
  int again = 0;  // how many imports fail with EAGAIN first
  int imports = 0;
};

class GemTest : public ::testing::Test {
 protected:
  std::uint32_t import(GemRegistry::Session& session, int dma_buf) {
    int error = 0;
    const std::uint32_t handle = session.import(dma_buf, error);
    EXPECT_EQ(error, 0);
    return handle;
  }
  FakeKernel kernel;
  std::shared_ptr<GemRegistry> gem = GemRegistry::create(100);
};

TEST_F(GemTest, AHandleImportedTwiceIsClosedOnceWithItsLastUse) {
  GemRegistry::Session session(*gem);
  const std::uint32_t first = import(session, 7);
  const std::uint32_t second = import(session, 7);
  EXPECT_EQ(first, second);
  session.release(first);
  EXPECT_TRUE(kernel.closed.empty()) << "the second import still uses it";
  session.release(second);
  EXPECT_EQ(kernel.closed, (std::map<std::uint32_t, int>{{7, 1}}));
}

TEST_F(GemTest, DistinctHandlesAreEachClosedOnce) {
  GemRegistry::Session session(*gem);
  for (const int dma_buf : {3, 4, 5}) session.release(import(session, dma_buf));
  EXPECT_EQ(kernel.closed, (std::map<std::uint32_t, int>{{3, 1}, {4, 1}, {5, 1}}));
}

TEST_F(GemTest, AUsersHandleIsNotClosedUntilForgotten) {
  gem->keep(7);
  {
    GemRegistry::Session session(*gem);
    session.release(import(session, 7));
  }
  EXPECT_TRUE(kernel.closed.empty());
  gem->forget(7);
  EXPECT_TRUE(kernel.closed.empty()) << "its owner closes it";
  GemRegistry::Session session(*gem);
  session.release(import(session, 7));
  EXPECT_EQ(kernel.closed[7], 1);
}

TEST_F(GemTest, AFailedImportClosesNothing) {
  GemRegistry::Session session(*gem);
  kernel.refuse = ENODEV;
  int error = 0;
  EXPECT_EQ(session.import(7, error), 0U);
  EXPECT_EQ(error, -ENODEV);
  session.release(7);
  EXPECT_TRUE(kernel.closed.empty()) << "a handle nobody counted";
}

TEST_F(GemTest, AHandleHeldByAnotherIsLeftToIt) {
  const int gbm = 0;
  {
    GemRegistry::Session session(*gem);
    const std::uint32_t handle = import(session, 7);
    EXPECT_TRUE(session.hold(handle, &gbm));
    session.release(handle);
    session.release(import(session, 7));  // as a display does that makes a framebuffer of it
    EXPECT_TRUE(kernel.closed.empty());
    session.forget(handle);
  }
  EXPECT_TRUE(kernel.closed.empty()) << "its owner closed it";
  GemRegistry::Session session(*gem);
  session.release(import(session, 7));
  EXPECT_EQ(kernel.closed[7], 1) << "nobody holds it any more";
}

TEST_F(GemTest, AHandleHasOneOwnerWhoMayHoldItOften) {
  const int one = 0;
  const int other = 0;
  GemRegistry::Session session(*gem);
  EXPECT_TRUE(session.hold(7, &one));
  EXPECT_TRUE(session.hold(7, &one));
  EXPECT_FALSE(session.hold(7, &other));
  EXPECT_FALSE(session.hold(7, nullptr)) << "the program's own";
  session.forget(7);
  EXPECT_FALSE(session.hold(7, &other)) << "held once more";
  session.forget(7);
  EXPECT_TRUE(session.hold(7, &other));
}

TEST_F(GemTest, WhatTheProgramKeepsNoDeviceMayHold) {
  const int gbm = 0;
  gem->keep(7);
  GemRegistry::Session session(*gem);
  EXPECT_FALSE(session.hold(7, &gbm));
}

TEST_F(GemTest, AfterDetachNothingIsAskedOfTheKernel) {
  {
    GemRegistry::Session before(*gem);
    EXPECT_EQ(import(before, 7), 7U);
  }
  gem->detach();
  GemRegistry::Session session(*gem);
  const int asked = kernel.imports;
  int error = 0;
  EXPECT_EQ(session.import(8, error), 0U);
  EXPECT_EQ(error, -ENODEV);
  session.release(7);
  EXPECT_EQ(kernel.imports, asked);
  EXPECT_TRUE(kernel.closed.empty()) << "the file took its handles along; the number may be another file's by now";
}

TEST_F(GemTest, ADriverThatSaysEagainIsAskedAgain) {
  kernel.again = 3;
  GemRegistry::Session session(*gem);
  EXPECT_EQ(import(session, 7), 7U);
  EXPECT_EQ(kernel.imports, 4);
  session.release(7);
}

TEST_F(GemTest, ASessionKeepsOthersOutFromImportToClose) {
  for (int round = 0; round < 200; ++round) {
    std::thread other([&] {
      GemRegistry::Session session(*gem);
      session.release(import(session, 7));
    });
    {
      GemRegistry::Session session(*gem);
      const int before = kernel.closed[7];
      const std::uint32_t handle = import(session, 7);
      EXPECT_EQ(kernel.closed[7], before) << "closed by another while in use here";
      session.release(handle);
      EXPECT_EQ(kernel.closed[7], before + 1);
    }
    other.join();
  }
}

// The numbers must equal the kernel's.
static_assert(uapi::ioctl_gem_close == DRM_IOCTL_GEM_CLOSE);
static_assert(uapi::ioctl_prime_handle_to_fd == DRM_IOCTL_PRIME_HANDLE_TO_FD);
static_assert(uapi::ioctl_prime_fd_to_handle == DRM_IOCTL_PRIME_FD_TO_HANDLE);

}  // namespace
