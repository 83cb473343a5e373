// Uses the installed package as another program would: the core and every backend, on a machine that has no device.
#include <dmaflow/dmaflow.hpp>

#include <cstdio>

int main() {
  auto camera = dmaflow::v4l2::Camera::open("/dev/no-such-camera");
  auto display = dmaflow::kms::Device::open("/dev/no-such-display");
  if (camera || display) return 1;
  std::printf("dmaflow %s\n%s\n%s\n", DMAFLOW_VERSION, camera.error().message().c_str(),
              display.error().message().c_str());
}
