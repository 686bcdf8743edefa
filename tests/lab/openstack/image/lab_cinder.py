"""A cinder backend that stores nothing, and so can also "copy" an image into a volume."""

from cinder import interface
from cinder.tests import fake_driver


@interface.volumedriver
class LabFakeVolumeDriver(fake_driver.FakeLoggingVolumeDriver):
    def copy_image_to_volume(self, context, volume, image_service, image_id, disable_sparse=False):
        pass

    def copy_volume_to_image(self, context, volume, image_service, image_meta):
        image_service.update(context, image_meta["id"], {}, b"\0" * 65536)
