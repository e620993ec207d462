"""Sources of images, one module each, with the functions `load` and `facts` of `jaxgen.data.loading.ImageSource`."""
