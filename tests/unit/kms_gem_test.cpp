// Memory handles of a DRM file: counted here, because the kernel does not, and closed exactly once.
#include "../../backends/kms/gem.hpp"

#include "support.hpp"

#include <map>

#include <libdrm/drm.h>

namespace {

using namespace dmaflow;
using namespace dmaflow::kms;

/// A kernel in which dma-buf N has handle N of the file, however often it is imported.
class FakeKernel : public sys::Hook {
 public:
  FakeKernel() { sys::set_hook(this); }
  ~FakeKernel() override { sys::set_hook(nullptr); }
  int before(const sys::Call& call) noexcept override {
    if (call.request == DRM_IOCTL_PRIME_FD_TO_HANDLE) {
      if (refuse != 0) return refuse;
      auto* prime = static_cast<drm_prime_handle*>(const_cast<void*>(call.argument));
      prime->handle = static_cast<std::uint32_t>(prime->fd);
      return pretend;
    }
    if (call.request == DRM_IOCTL_GEM_CLOSE) {
      ++closed[static_cast<const drm_gem_close*>(call.argument)->handle];
      return pretend;
    }
    return ENOSYS;
  }
  std::map<std::uint32_t, int> closed;
  int refuse = 0;
};

class KmsGem : public ::testing::Test {
 protected:
  std::uint32_t import(GemRegistry::Session& session, int dma_buf) {
    int error = 0;
    const std::uint32_t handle = session.import(dma_buf, error);
    EXPECT_EQ(error, 0);
    return handle;
  }
  FakeKernel kernel;
  GemRegistry gem;
};

TEST_F(KmsGem, AHandleImportedTwiceIsClosedOnceWithItsLastUse) {
  GemRegistry::Session session(gem);
  const std::uint32_t first = import(session, 7);
  const std::uint32_t second = import(session, 7);
  EXPECT_EQ(first, second);
  session.release(first);
  EXPECT_TRUE(kernel.closed.empty()) << "the second import still uses it";
  session.release(second);
  EXPECT_EQ(kernel.closed, (std::map<std::uint32_t, int>{{7, 1}}));
}

TEST_F(KmsGem, DistinctHandlesAreEachClosedOnce) {
  GemRegistry::Session session(gem);
  for (const int dma_buf : {3, 4, 5}) session.release(import(session, dma_buf));
  EXPECT_EQ(kernel.closed, (std::map<std::uint32_t, int>{{3, 1}, {4, 1}, {5, 1}}));
}

TEST_F(KmsGem, AUsersHandleIsNotClosedUntilForgotten) {
  gem.keep(7);
  {
    GemRegistry::Session session(gem);
    session.release(import(session, 7));
  }
  EXPECT_TRUE(kernel.closed.empty());
  gem.forget(7);
  EXPECT_TRUE(kernel.closed.empty()) << "its owner closes it";
  GemRegistry::Session session(gem);
  session.release(import(session, 7));
  EXPECT_EQ(kernel.closed[7], 1);
}

TEST_F(KmsGem, AFailedImportClosesNothing) {
  GemRegistry::Session session(gem);
  kernel.refuse = ENODEV;
  int error = 0;
  EXPECT_EQ(session.import(7, error), 0U);
  EXPECT_EQ(error, -ENODEV);
  session.release(7);
  EXPECT_TRUE(kernel.closed.empty()) << "a handle nobody counted";
}

}  // namespace
